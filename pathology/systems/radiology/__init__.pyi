from . import (
    banerjee_2018,
    gao_2021,
    holbrook_2020,
    jardim_perassi_2021,
    liang_2022,
    liu_2021,
    marin_2022,
    navarro_2021,
    peng_2019,
    yang_2022_grade,
    yang_2022_lipoma,
    ye_2021,
)

__all__ = [
    "banerjee_2018",
    "gao_2021",
    "holbrook_2020",
    "jardim_perassi_2021",
    "liang_2022",
    "liu_2021",
    "marin_2022",
    "navarro_2021",
    "peng_2019",
    "yang_2022_grade",
    "yang_2022_lipoma",
    "ye_2021",
]
