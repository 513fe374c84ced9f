"""HTTP as the two programs that dial out need it, and safe printing and logging for all three.

It knows neither tasks nor settings.
"""
