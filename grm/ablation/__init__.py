"""The paper's ablations as commands: every row trained with one budget, evaluated, timed and compared."""
