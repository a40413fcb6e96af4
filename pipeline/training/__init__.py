"""Training students: what a batch holds, the step, the cohort that shares batches, and a run's folder."""
