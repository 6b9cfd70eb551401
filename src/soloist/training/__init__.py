"""Networks learn: rounds of SOLO, DenseCL, the whole of `fit`, finetuning, and a run's folder."""
