from . import bhambhvani_2021, han_2018, ryu_2020, williams_2021

__all__ = ["bhambhvani_2021", "han_2018", "ryu_2020", "williams_2021"]
