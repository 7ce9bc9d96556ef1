"""Names of tumours: every spelling leads to one entity, and an old name that covers several to none."""

import pytest

from pathology.errors import UsageError
from pathology.findings.vocabulary import find_histotype, histotypes


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Leiomyosarcoma (LMS)", "LMS"),
        ("Malignant Peripheral Nerve Sheath Tumors (MPNST)", "MPNST"),
        ("Synovial Sarcoma - Biphasic", "SS"),
        ("Sarcoma; synovial; poorly differentiated", "SS-PD"),
        ("undifferentiated pleomorphic sarcoma, NOS", "UPS"),
    ],
)
def test_spellings_of_public_tables(name, code):
    assert find_histotype(name).code == code


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pleomorphic 'MFH' / Undifferentiated pleomorphic sarcoma", "covers several entities"),
        ("MFH", "covers several entities"),
        ("Leiomyosarcoma (UPS)", "unknown histotype"),  # a name and a code that contradict each other
        ("Desmoid Tumor", "unknown histotype"),
    ],
)
def test_names_that_need_a_review(name, said):
    with pytest.raises(UsageError, match=said):
        find_histotype(name)


def test_every_name_leads_to_its_own_entity():
    for entry in histotypes():
        for name in (entry.code, entry.name, *entry.synonyms):
            assert find_histotype(name) is entry
