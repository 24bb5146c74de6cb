"""Mammography exams: from image headers to a cohort of exams or breasts with labels, and what could leak."""

from __future__ import annotations

from atlas_path.exams.images import ExamImage, Excluded, describe_image
from atlas_path.exams.labels import LABEL_COLUMNS, breast_labels, within_years
from atlas_path.exams.leaks import Leak, find_leaks
from atlas_path.exams.mirai import read_mirai
from atlas_path.exams.tables import Exam, cohort_rows, group_exams

__all__ = [
    "LABEL_COLUMNS",
    "Exam",
    "ExamImage",
    "Excluded",
    "Leak",
    "breast_labels",
    "cohort_rows",
    "describe_image",
    "find_leaks",
    "group_exams",
    "read_mirai",
    "within_years",
]
