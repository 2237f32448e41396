"""The columns and types of each table."""

import pyarrow as pa

_SPLITS = ("train", "validation", "test")
_NAMES = [("class_name", pa.string()), ("file", pa.string())]
_TAKEN = [("taken_for", pa.int64()), ("taken_for_share", pa.float64()), ("entropy", pa.float64())]
_PAIR = [
    ("train_index", pa.int64()),
    ("label", pa.int64()),
    ("influence", pa.float64()),
    ("standard_error", pa.float64()),
    ("p_value", pa.float64()),
    ("significant", pa.bool_()),
    ("soft_influence", pa.float64()),
    ("soft_standard_error", pa.float64()),
    ("soft_p_value", pa.float64()),
    ("soft_significant", pa.bool_()),
]
_GROUP = [
    ("label", pa.int64()),
    *_NAMES,
    ("accuracy", pa.float64()),
    ("models", pa.int64()),
    ("max_influence", pa.float64()),
    ("max_influence_train_index", pa.int64()),
    ("memorization", pa.float64()),
    ("atypical", pa.bool_()),
    ("hard_atypical", pa.bool_()),
    ("soft_atypical", pa.bool_()),
    ("soft_accuracy", pa.float64()),
    *_TAKEN,
]
_ACCURACY = [("accuracy", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64())]

_MEMORIZATION = [
    ("train_index", pa.int64()),
    ("label", pa.int64()),
    *_NAMES,
    ("memorization", pa.float64()),
    ("standard_error", pa.float64()),
    ("ci_low", pa.float64()),
    ("ci_high", pa.float64()),
    ("p_in", pa.float64()),
    ("p_out", pa.float64()),
    ("n_in", pa.int64()),
    ("n_out", pa.int64()),
    ("atypical", pa.bool_()),
    ("soft_memorization", pa.float64()),
    ("soft_standard_error", pa.float64()),
    ("soft_ci_low", pa.float64()),
    ("soft_ci_high", pa.float64()),
    ("soft_p_in", pa.float64()),
    ("soft_p_out", pa.float64()),
    *_TAKEN,
]

_EPOCH = [
    ("method", pa.string()),
    ("seed", pa.int64()),
    ("epoch", pa.int64()),
    ("best", pa.bool_()),
    ("trained_samples", pa.int64()),
    ("learning_rate", pa.float64()),
    ("loss", pa.float64()),
    ("discrimination_loss", pa.float64()),
    ("harmful", pa.int64()),
    ("harmful_weight", pa.float64()),
]
_ATTACKED = [
    ("predicted", pa.int64()),
    ("clean_correct", pa.bool_()),
    ("pgd_correct", pa.bool_()),
    ("apgd_ce_correct", pa.bool_()),
    ("apgd_t_correct", pa.bool_()),
    ("fab_t_correct", pa.bool_()),
    ("square_correct", pa.bool_()),
    ("robust_correct", pa.bool_()),
    ("broken_by", pa.string()),
    ("margin", pa.float64()),
    ("tier", pa.string()),
]
_TEST_SAMPLE = [
    ("method", pa.string()),
    ("seed", pa.int64()),
    ("checkpoint", pa.string()),
    ("test_index", pa.int64()),
    ("label", pa.int64()),
]

SCHEMAS: dict[str, pa.Schema] = {
    "files": pa.schema(
        [
            ("split", pa.string()),
            ("index", pa.int64()),
            ("label", pa.int64()),
            *_NAMES,
        ]
    ),
    # one row per subset model; the bits are packed, first sample first (numpy.packbits)
    "subsets": pa.schema(
        [
            ("model", pa.int64()),
            ("seed", pa.int64()),
            ("in_subset", pa.binary()),
            # right or wrong, packed bits; probability of the label, float16; predicted class, unsigned
            *((f"{kind}_{part}", pa.binary()) for kind in ("correct", "p", "class") for part in _SPLITS),
            # under attack; missing for models trained on clean images
            *((f"{kind}_{part}", pa.binary()) for kind in ("robust", "robust_p", "robust_class") for part in _SPLITS),
        ]
    ),
    "memorization": pa.schema(_MEMORIZATION),
    "robust_memorization": pa.schema(_MEMORIZATION),
    # likely ones, most likely first
    "label_errors": pa.schema(
        [
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            *_NAMES,
            ("taken_for", pa.int64()),
            ("taken_for_name", pa.string()),
            ("taken_for_share", pa.float64()),
            ("memorization", pa.float64()),
            ("soft_memorization", pa.float64()),
            ("score", pa.float64()),
        ]
    ),
    "duplicates": pa.schema(
        [
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            ("memorization", pa.float64()),
            ("atypical", pa.bool_()),
            ("hidden", pa.bool_()),
            ("nearest_index", pa.int64()),
            ("nearest_distance", pa.float64()),
            ("near_duplicates", pa.int64()),
            ("duplicates_influence", pa.float64()),
            ("max_influence", pa.float64()),
            ("max_influence_train_index", pa.int64()),
            ("other_index", pa.int64()),
            ("other_label", pa.int64()),
            ("other_distance", pa.float64()),
            ("other_near_duplicate", pa.bool_()),
        ]
    ),
    "influence": pa.schema([_PAIR[0], ("test_index", pa.int64()), *_PAIR[1:]]),
    "robust_influence": pa.schema([_PAIR[0], ("test_index", pa.int64()), *_PAIR[1:]]),
    "train_influence": pa.schema([_PAIR[0], ("influenced_index", pa.int64()), *_PAIR[1:]]),
    "test_groups": pa.schema([("test_index", pa.int64()), *_GROUP]),
    "validation_groups": pa.schema([("validation_index", pa.int64()), *_GROUP]),
    # what the attacks of one model found, and the same of all models with the groups of samples
    "attacked": pa.schema([*_TEST_SAMPLE, *_ATTACKED]),
    "per_sample": pa.schema(
        [
            *_TEST_SAMPLE,
            ("atypical", pa.bool_()),
            ("max_influence", pa.float64()),
            ("memorization", pa.float64()),
            *_ATTACKED,
        ]
    ),
    "flags": pa.schema(
        [
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("checkpoint", pa.string()),
            ("flag", pa.string()),
            ("value", pa.float64()),
            ("limit", pa.float64()),
            ("raised", pa.bool_()),
            ("meaning", pa.string()),
        ]
    ),
    "by_seed": pa.schema(
        [
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("checkpoint", pa.string()),
            ("group", pa.string()),
            ("metric", pa.string()),
            ("samples", pa.int64()),
            ("correct", pa.int64()),
            *_ACCURACY,
            ("tier", pa.string()),
        ]
    ),
    "summary": pa.schema(
        [
            ("method", pa.string()),
            ("checkpoint", pa.string()),
            ("group", pa.string()),
            ("metric", pa.string()),
            ("seeds", pa.int64()),
            ("samples", pa.int64()),
            *_ACCURACY,
            ("seed_deviation", pa.float64()),
            ("tier", pa.string()),
        ]
    ),
    "comparisons": pa.schema(
        [
            ("question", pa.string()),
            ("method", pa.string()),
            ("baseline", pa.string()),
            ("checkpoint", pa.string()),
            ("group", pa.string()),
            ("metric", pa.string()),
            ("seeds", pa.int64()),
            ("samples", pa.int64()),
            ("difference", pa.float64()),
            ("ci_low", pa.float64()),
            ("ci_high", pa.float64()),
            ("p_value", pa.float64()),
            ("p_holm", pa.float64()),
            ("verdict", pa.string()),
            ("tier", pa.string()),
        ]
    ),
    # shuffle 0 is the order of models as it is
    "null_pairs": pa.schema(
        [
            ("shuffle", pa.int64()),
            ("pairs", pa.int64()),
            ("significant", pa.int64()),
            ("over_threshold", pa.int64()),
            ("found", pa.int64()),
            ("targets", pa.int64()),
            ("soft_significant", pa.int64()),
            ("soft_found", pa.int64()),
            ("soft_targets", pa.int64()),
        ]
    ),
    # one row per epoch and atypical training sample
    "training_samples": pa.schema(
        [
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("epoch", pa.int64()),
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            ("memorization", pa.float64()),
            ("wrong_probability", pa.float64()),
            ("weight", pa.float64()),
        ]
    ),
    # one row per run, in the order of the config
    "runs": pa.schema(
        [
            ("method", pa.string()),
            ("base", pa.string()),
            ("role", pa.string()),
            ("objective", pa.string()),
            ("weighted", pa.bool_()),
            ("removed", pa.string()),
            ("fraction", pa.float64()),
            ("twin", pa.string()),
            ("compared_with", pa.string()),
        ]
    ),
    "proxies": pa.schema(
        [
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            ("csl", pa.float64()),
            ("lt_iqr", pa.float64()),
            ("forgetting", pa.float64()),
            ("first_learned", pa.float64()),
            ("early_loss", pa.float64()),
            ("el2n", pa.float64()),
            ("final_loss", pa.float64()),
        ]
    ),
    "proxy_agreement": pa.schema(
        [
            ("proxy", pa.string()),
            ("score", pa.string()),
            ("metric", pa.string()),
            ("value", pa.float64()),
            ("ci_low", pa.float64()),
            ("ci_high", pa.float64()),
            ("samples", pa.int64()),
            ("atypical", pa.int64()),
            ("runs", pa.int64()),
            ("models", pa.int64()),
        ]
    ),
    "harmful": pa.schema(
        [
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            ("memorization", pa.float64()),
            ("wrong_probability", pa.float64()),
            ("wrong_share", pa.float64()),
            ("harmful", pa.bool_()),
        ]
    ),
    "hardest": pa.schema([("train_index", pa.int64()), ("label", pa.int64()), ("adversarial_loss", pa.float64())]),
    "robust_effects": pa.schema(
        [
            ("train_index", pa.int64()),
            ("label", pa.int64()),
            ("memorization", pa.float64()),
            ("models", pa.int64()),
            ("n_in", pa.int64()),
            ("n_out", pa.int64()),
        ]
        + [
            (f"{metric}_{name}", kind)
            for metric in ("clean", "robust")
            for name, kind in (
                ("effect", pa.float64()),
                ("standard_error", pa.float64()),
                ("p_value", pa.float64()),
                ("significant", pa.bool_()),
            )
        ]
    ),
    # one row per epoch; values of samples are packed as bat.training.records says, those of epochs not measured missing
    "records": pa.schema(
        [*_EPOCH, ("wrong_probability", pa.binary()), ("weight", pa.binary())]
        + [
            (f"{split}_{attack}_{metric}", pa.binary())
            for split in ("train", "validation", "test")
            for attack in ("clean", "pgd")
            for metric in ("loss", "correct")
        ]
        + [("train_clean_error", pa.binary())]
    ),
    "history": pa.schema(
        _EPOCH
        + [
            (f"{split}_{group}_{attack}_{metric}", pa.float64())
            for split in ("train", "validation", "test")
            for group in ("all", "typical", "atypical")
            for attack in ("clean", "pgd")
            for metric in ("loss", "accuracy")
        ]
    ),
}
