"""What pretraining and fine-tuning minimise; one file a loss."""
