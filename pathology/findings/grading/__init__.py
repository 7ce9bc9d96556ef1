"""Grades and stages from confirmed inputs, by published tables; one system a file."""
