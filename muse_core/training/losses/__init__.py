"""What MUSE's pretraining minimises: self-distillation of whole views and of nuclei; one file a loss."""
