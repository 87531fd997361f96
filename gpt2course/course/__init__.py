"""The machinery of the lessons and exercises: experiments, figures, checks, the grader."""
