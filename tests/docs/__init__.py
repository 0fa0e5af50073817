"""The pages: their code runs, their figures are those of files, the site builds."""
