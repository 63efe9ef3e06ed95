"""What the Deployments Registry asks of an entry, as a JSON schema: names, types, words and what is required.

The facts are those of `schemas/deployments-schema.yaml` in opendp/deployments-registry-data, as it was in autumn 2026.
Its descriptions, which only people read, are not here. `WITH_ACCOUNTING` is a version in which composition and
post-processing have a section of their own.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}


def _words(*words: Any) -> Schema:
    return {"type": "string", "enum": list(words)}


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


BASIC = _object(
    (
        "name",
        "data_curators",
        "description",
        "intended_use",
        "data_product_type",
        "data_product_region",
        "publication_date",
    ),
    name=TEXT,
    data_curators={
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["data_curator_name", "data_curator_type"],
            "properties": {
                "data_curator_name": TEXT,
                "data_curator_type": _words("Government", "Industry", "Nonprofit"),
            },
        },
    },
    description=TEXT,
    intended_use=TEXT,
    data_product_type=_words(
        "Summary statistics",
        "Machine learning model",
        "Dataset",
        "Synthetic data",
        "Interactive API",
        "SQL queries",
    ),
    data_product_region=TEXT,
    data_product_sector=_words("Technology", "Healthcare", "Education", "Government", "Energy", "Finance"),
    publication_date={"type": "string", "format": "date"},
)
VARIANT = _object(
    variant_name=_words("Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"),
    data_domain=TEXT,
    unprotected_quantities=TEXT,
)
LOSS = _object(
    privacy_unit=TEXT,
    privacy_unit_details=TEXT,
    number_of_privacy_units={"type": "integer"},
    privacy_parameters=_object(
        epsilon={"type": "number"}, delta={"type": ["number", "string"]}, rho={"type": "number"}
    ),
    privacy_parameters_details={},
)
MODEL = _object(
    model_name=_words("Local", "Central", "Shuffle", "Federated", "Varies"),
    model_name_details=TEXT,
    trust_assumptions=TEXT,
    actors={},
    release_type=_words("One release", "Many releases"),
    release_type_details=TEXT,
    data_source_type=_words("Static", "Dynamic"),
    data_source_type_details=TEXT,
    access_type=_words("Interactive", "Non-interactive"),
    access_type_details=TEXT,
)
ADMINISTRATIVE = _object(
    ("status", "registry_authors", "tier"),
    evidence_sources={"type": "object"},
    status=_words(
        "Converted",
        "Draft",
        "Pending",
        "Changes Required",
        "Approved",
        "Approved (Update Requested)",
        "Approved (Pending)",
    ),
    registry_authors={"type": "array", "items": TEXT, "minItems": 1},
    tier={"type": "integer", "enum": [1, 2, 3]},
)
_COMPOSITION = {"composition": TEXT, "post_processing": TEXT}


def _implementation(**more: Schema) -> Schema:
    return _object(
        preprocessing_and_hyperparameter_tuning=TEXT,
        mechanisms=TEXT,
        justification=TEXT,
        utility={},
        additional_information={},
        **more,
    )


def _whole(**sections: Schema) -> Schema:
    deployment = _object(
        ("basic", "administrative"),
        basic=BASIC,
        dp_variant=VARIANT,
        privacy_loss=LOSS,
        deployment_model=MODEL,
        administrative=ADMINISTRATIVE,
        **sections,
    )
    return _object(("url_slug", "deployment"), url_slug=TEXT, deployment=deployment)


SCHEMA = _whole(implementation=_implementation(**_COMPOSITION))
WITH_ACCOUNTING = _whole(implementation=_implementation(), accounting=_object(**_COMPOSITION))
