"""Study: does synthetic data help at different numbers of real scans?"""
