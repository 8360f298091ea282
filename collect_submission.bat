@echo off
rem Collect the submission: assignment_3_submission.zip beside this file. --code-only leaves out report and notebooks.
setlocal
set "python=%~dp0.venv\Scripts\python.exe"
if not exist "%python%" set "python=python"
"%python%" "%~dp0collect_submission.py" %*
