"""New stores from finished ones, without the teacher: merge, subset, regroup, map classes."""
