"""The finetune's plots and its HTML page."""
