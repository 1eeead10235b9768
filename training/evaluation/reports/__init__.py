"""Samples as numbers, tables and pages.

inspector       The reasoning inspector: the same problems before and after training, cut and uncut,
                as one HTML page.
inspector_page  The inspector's page: its frame, style and script. No file beside it is needed, and
                nothing is fetched.
ratings         A Codeforces rating for each cell of a grid, where the problems have ratings.
stats           Samples as numbers: accuracy avg@k with intervals over problems, tokens per segment,
                success curves.
tables          Summaries as Markdown: the paper's layout, and every number behind it.
"""
