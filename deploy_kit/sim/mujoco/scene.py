"""A track and a drone as a MuJoCo model."""

import mujoco

from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.randomisation import Vehicle, nominal_vehicle
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import Task

DRONE = "drone"
_GROUND_HALF_SIZE = 60.0
_FILLING_HEIGHT = -1000.0
_NET_FORCE = 3
"""Of a contact sensor: the sum over all contacts, in world axes."""
_SHAPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
}


def _add_primitive(body: mujoco.MjsBody, primitive: Primitive) -> None:
    size = [*primitive.size, 0.0, 0.0][:3]
    body.add_geom(type=_SHAPES[primitive.kind], size=size, pos=primitive.position, quat=primitive.quaternion)


def build_model(
    track: Track, task: Task, vehicle: Vehicle | None = None, colliders: bool = True, room: int = 0
) -> mujoco.MjModel:
    """Return the model of one environment: ground, the track's solids and one drone.

    The drone is moved by six actuators that apply a body-frame wrench at its centre of mass (forces x y z in N, then
    torques x y z in N·m), so that a wrench is held over several physics steps without a call in between.

    Args:
        track: gates and obstacles.
        task: airframe and physics step.
        vehicle: mass and inertia of the drone; None for the nominal one.
        colliders: whether the drone collides with anything.
        room: number of solids to which the model is filled up, with spheres far below the ground on a body of their
            own; a model has one of them at least.
    """
    vehicle = nominal_vehicle(task) if vehicle is None else vehicle
    spec = mujoco.MjSpec()
    spec.option.timestep = task.clock.physics_dt
    spec.option.gravity = [0.0, 0.0, -task.gravity]
    world = spec.worldbody
    # The ground comes first: geom 0.
    world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[_GROUND_HALF_SIZE, _GROUND_HALF_SIZE, 1.0])
    for primitive in track.primitives:
        _add_primitive(world, primitive)
    filling = world.add_body(pos=[0.0, 0.0, _FILLING_HEIGHT])
    for _ in range(max(room - len(track.primitives), 0) + 1):
        filling.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0.0, 0.0])
    drone = world.add_body(name=DRONE, pos=track.start)
    drone.add_freejoint()
    box = drone.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=task.airframe.box, mass=0.0)
    box.contype = box.conaffinity = int(colliders)
    drone.mass = vehicle.mass
    drone.inertia = task.airframe.inertia
    drone.ipos = [0.0, 0.0, 0.0]
    drone.explicitinertial = True
    drone.add_site(name=DRONE)
    for axis in range(6):
        gear = [0.0] * 6
        gear[axis] = 1.0
        actuator = spec.add_actuator(trntype=mujoco.mjtTrn.mjTRN_SITE, target=DRONE, gear=gear)
        actuator.set_to_motor()
    # The net contact force on the drone, world axes, N.
    sensor = spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_CONTACT, objtype=mujoco.mjtObj.mjOBJ_BODY, objname=DRONE, name=DRONE
    )
    sensor.intprm = [1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), _NET_FORCE, 1]
    model = spec.compile()
    # The compiler refuses moments that no body has, as randomisation draws them; the engine does not mind.
    model.body_inertia[model.body(DRONE).id] = vehicle.inertia
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
