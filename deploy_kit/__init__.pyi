from deploy_kit.bench.options import BenchOptions as BenchOptions
from deploy_kit.bench.report import BenchReport as BenchReport
from deploy_kit.bench.run import bench_bundle as bench_bundle
from deploy_kit.bundle.reader import Bundle as Bundle
from deploy_kit.bundle.reader import open_bundle as open_bundle
from deploy_kit.bundle.thresholds import Thresholds as Thresholds
from deploy_kit.collection.options import (
    CollectOptions as CollectOptions,
)
from deploy_kit.collection.run import (
    CollectResult as CollectResult,
)
from deploy_kit.collection.run import (
    collect as collect,
)
from deploy_kit.data.reader import FeatureFile as FeatureFile
from deploy_kit.data.reader import open_feature_file as open_feature_file
from deploy_kit.demo.options import DemoOptions as DemoOptions
from deploy_kit.demo.run import DemoResult as DemoResult
from deploy_kit.demo.run import run_demo as run_demo
from deploy_kit.errors import (
    CheckFailedError as CheckFailedError,
)
from deploy_kit.errors import (
    DeployKitError as DeployKitError,
)
from deploy_kit.errors import (
    InputError as InputError,
)
from deploy_kit.export.exporter import export_bundle as export_bundle
from deploy_kit.export.options import ExportOptions as ExportOptions
from deploy_kit.finetuning.options import FinetuneOptions as FinetuneOptions
from deploy_kit.finetuning.run import FinetuneResult as FinetuneResult
from deploy_kit.finetuning.run import finetune as finetune
from deploy_kit.flight.fly import FlyOptions as FlyOptions
from deploy_kit.flight.fly import FlyResult as FlyResult
from deploy_kit.flight.fly import fly as fly
from deploy_kit.policy.checkpoint import (
    Checkpoint as Checkpoint,
)
from deploy_kit.policy.checkpoint import (
    load_checkpoint as load_checkpoint,
)
from deploy_kit.policy.checkpoint import (
    save_checkpoint as save_checkpoint,
)
from deploy_kit.policy.network_hints import NetworkHints as NetworkHints
from deploy_kit.policy.policy_checkpoint import PolicyCheckpoint as PolicyCheckpoint
from deploy_kit.policy.policy_checkpoint import load_policy as load_policy
from deploy_kit.policy.policy_checkpoint import save_policy as save_policy
from deploy_kit.sim.options import EnvOptions as EnvOptions
from deploy_kit.sim.registry import make_env as make_env
from deploy_kit.verify.options import VerifyOptions as VerifyOptions
from deploy_kit.verify.report import VerifyReport as VerifyReport
from deploy_kit.verify.verifier import verify_bundle as verify_bundle

__version__: str
