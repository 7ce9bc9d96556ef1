from . import foersch_2021, foersch_2021_survival, frankel_2022, zehra_2022, zhang_2022, zhang_2022_prognosis

__all__ = ["foersch_2021", "foersch_2021_survival", "frankel_2022", "zehra_2022", "zhang_2022", "zhang_2022_prognosis"]
