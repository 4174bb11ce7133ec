"""The networks: lungs and heart, findings, and what makes them ready for use.

This room knows no DICOM and no SQL. It takes `Radiograph`s and gives `Screening`s.
"""
