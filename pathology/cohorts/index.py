"""Contents of the public collections, from the index in the package ``idc-index-data``; offline.

The only file that imports ``idc_index_data``.  The images are hosted by the Imaging Data Commons of the US National
Cancer Institute (Fedorov et al. 2023, RadioGraphics 43:e230180); every series is a folder of DICOM files in a public
bucket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pathology.errors import UsageError
from pathology.extras import missing_extra

__all__ = ["COHORTS", "CohortSeries", "Kind", "PublicCohort", "find_cohort", "index_version", "read_cohort"]

Kind = Literal["diagnostic", "frozen", "annotation", "imaging"]

_COLUMNS: Final = [
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "series_aws_url",
    "series_size_MB",
    "license_short_name",
    "source_DOI",
    "transfer_syntax_name",
    "instanceCount",
]


@dataclass(frozen=True, slots=True)
class PublicCohort:
    """A public collection.

    Attributes
    ----------
    name
        Name on the command line.
    collection
        Collection ID in the index.
    title
        Title, one line.
    kind
        Default kind of series.
    labels
        Source of the labels.
    """

    name: str
    collection: str
    title: str
    kind: Kind
    labels: str


COHORTS: Final = (
    PublicCohort(
        "tcga-sarc",
        "tcga_sarc",
        "TCGA-SARC: H&E slides of soft tissue sarcomas, FFPE diagnostic and frozen",
        "diagnostic",
        "histology in the clinical table of the Genomic Data Commons, by patient; diagnoses were reviewed later, state"
        " which table was used",
    ),
    PublicCohort(
        "rms",
        "rms_mutation_prediction",
        "RMS-Mutation-Prediction: H&E slides of rhabdomyosarcomas (Children's Oncology Group), with annotated regions",
        "diagnostic",
        "clinical table on the collection page, by patient",
    ),
    PublicCohort(
        "sts",
        "soft_tissue_sarcoma",
        "Soft-tissue-Sarcoma: PET, CT and MRI with contours of the tumour (Vallieres et al. 2015)",
        "imaging",
        "clinical table on the collection page, by patient",
    ),
    PublicCohort(
        "qin",
        "qin_sarcoma",
        "QIN-Sarcoma: dynamic contrast-enhanced MRI before and during treatment",
        "imaging",
        "none in the index",
    ),
)
"""The sarcoma collections."""


@dataclass(frozen=True, slots=True)
class CohortSeries:
    """One series: a slide, an annotation or an imaging series.

    Attributes
    ----------
    name
        Name of the download folder, unique in the cohort.
    patient_id, study, uid
        Patient ID, StudyInstanceUID, SeriesInstanceUID.
    modality
        DICOM modality, such as ``SM`` for slides.
    kind
        Kind of series.
    description
        SeriesDescription.
    size_mb
        Megabytes (10^6 bytes).
    files
        Number of files.
    licence
        Short name of the licence.
    doi
        DOI of the data set.
    encoding
        Transfer syntaxes of the pixels.
    url
        ``s3://bucket/prefix/*``.
    """

    name: str
    patient_id: str
    study: str
    uid: str
    modality: str
    kind: Kind
    description: str
    size_mb: float
    files: int
    licence: str
    doi: str
    encoding: str
    url: str


def index_version() -> str:
    """Return the version of the index.

    Raises
    ------
    MissingDependencyError
        If the package is not installed.
    """
    _index()
    from importlib.metadata import version

    return f"idc-index-data {version('idc-index-data')}"


def find_cohort(name: str) -> PublicCohort:
    """Return the cohort of this name.

    Raises
    ------
    UsageError
        If there is none; the message lists the cohorts.

    Examples
    --------
    >>> find_cohort(COHORTS[0].name).title
    'TCGA-SARC: H&E slides of soft tissue sarcomas, FFPE diagnostic and frozen'
    """
    for cohort in COHORTS:
        if name.lower() in (cohort.name, cohort.collection):
            return cohort
    raise UsageError(
        f"unknown cohort {name!r}", remedy=f"Choose one of: {', '.join(cohort.name for cohort in COHORTS)}"
    )


def read_cohort(name: str) -> tuple[CohortSeries, ...]:
    """Return all series of a cohort, by patient and description.

    Parameters
    ----------
    name
        Name of one of :data:`COHORTS`.

    Raises
    ------
    UsageError
        If there is no such cohort.
    MissingDependencyError
        If the index is not installed.
    """
    import pyarrow.parquet as pq

    cohort = find_cohort(name)
    rows = pq.read_table(_index(), columns=_COLUMNS, filters=[("collection_id", "==", cohort.collection)]).to_pylist()
    rows.sort(
        key=lambda row: (row["PatientID"], row["Modality"], row["SeriesDescription"] or "", row["SeriesInstanceUID"])
    )
    taken: dict[str, int] = {}
    result = []
    for row in rows:
        kind = _kind(row["Modality"], row["SeriesDescription"] or "")
        wanted = _folder_name(row["PatientID"], row["Modality"], row["SeriesDescription"] or "")
        taken[wanted] = number = taken.get(wanted, 0) + 1
        result.append(
            CohortSeries(
                name=wanted if number == 1 else f"{wanted}-{number}",
                patient_id=row["PatientID"],
                study=row["StudyInstanceUID"],
                uid=row["SeriesInstanceUID"],
                modality=row["Modality"],
                kind=kind,
                description=row["SeriesDescription"] or "",
                size_mb=float(row["series_size_MB"]),
                files=int(row["instanceCount"]),
                licence=row["license_short_name"],
                doi=row["source_DOI"] or "",
                encoding=", ".join(
                    part
                    for part in (row["transfer_syntax_name"] or "").split(",")
                    if part != "Explicit VR Little Endian"
                )
                or "uncompressed",
                url=row["series_aws_url"],
            )
        )
    return tuple(result)


def _index() -> str:
    try:
        import idc_index_data
    except ImportError as error:
        raise missing_extra("the index of public cohorts is not installed", "cohorts") from error
    return str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)


def _kind(modality: str, description: str) -> Kind:
    if modality == "SM":
        # Descriptions of the collections: "FFPE HE TP DX1" is a diagnostic FFPE slide, "Frozen HE TP TS1" is not.
        return "frozen" if description.lower().startswith("frozen") else "diagnostic"
    return "annotation" if modality in ("SEG", "SR", "RTSTRUCT", "ANN") else "imaging"


def _folder_name(patient: str, modality: str, description: str) -> str:
    if modality == "SM":
        words = description.split()
        slide = words[-1] if words and re.fullmatch(r"[A-Z]+\d*[A-Z]?", words[-1]) and len(words) > 2 else ""
        return f"{patient}-{slide}" if slide else patient
    plain = re.sub(r"[^A-Za-z0-9]+", "-", description).strip("-") or "series"
    return f"{patient}-{modality}-{plain}"[:120]
