"""The web page of tools/app.py: jobs and their process, results, the gate before them, the page."""
