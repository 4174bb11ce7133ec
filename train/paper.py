"""The paper's tables (Fang et al., arXiv 2105.12430), to be printed beside ours.

Which column may be compared with what is said with it: see `COLUMNS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from prescreen.study import LABELS

#: Table 1: train_val, test and boxes of the official lists.
TABLE_1: dict[str, tuple[int, int, int]] = {
    "Atelectasis": (8280, 3279, 180),
    "Cardiomegaly": (1707, 1069, 146),
    "Effusion": (8659, 4658, 153),
    "Infiltration": (13782, 6112, 123),
    "Mass": (4034, 1748, 85),
    "Nodule": (4708, 1623, 79),
    "Pneumonia": (876, 555, 120),
    "Pneumothorax": (2637, 2665, 98),
    "Consolidation": (2852, 1815, 0),
    "Edema": (1378, 925, 0),
    "Emphysema": (1423, 1093, 0),
    "Fibrosis": (1251, 435, 0),
    "Pleural_Thickening": (2242, 1143, 0),
    "Hernia": (141, 86, 0),
    "Multi-label Totals": (53970, 27206, 984),
    "Finding": (36024, 15735, 984),
    "No Finding": (50500, 9861, 0),
    "Totals": (86524, 25596, 984),
}


@dataclass(frozen=True)
class Column:
    """One column of Table 2: AUROC of each label in the order of LABELS, on the official test list.

    `believed` is False where the figures themselves are in doubt, whatever they are compared with.
    """

    name: str
    origin: str
    areas: tuple[float, ...]
    average: float
    believed: bool = True

    def of(self, label: str) -> float:
        return self.areas[LABELS.index(label)]


_RERUN, _PUBLISHED = "run again by the paper's authors", "taken over from its own paper"


def _column(name: str, origin: str, average: float, areas: str, believed: bool = True) -> Column:
    values = tuple(int(area) / 10_000 for area in areas.split())
    return Column(name, origin, values, average, believed)


#: Table 2.
COLUMNS: tuple[Column, ...] = (
    _column(
        "DCNN",
        _RERUN,
        0.7934,
        "7837 8937 8704 6826 7875 7125 7110 8232 7895 8673 8398 7656 7398 8406",
    ),
    _column(
        "CheXNet",
        _RERUN,
        0.8105,
        "7919 9038 8744 6942 8142 7286 7477 8431 7933 8777 8726 7986 7528 8545",
    ),
    _column(
        "SENet",
        _RERUN,
        0.8205,
        "7963 9085 8769 6974 8144 7509 7566 8467 7996 8864 8907 8041 7547 9035",
    ),
    _column(
        "SDFN",
        _PUBLISHED,
        0.8150,
        "7810 8850 8320 7000 8150 7650 7190 8660 7430 8420 9210 8350 7910 9110",
    ),
    _column(
        "AGCNN",
        _RERUN,
        0.8221,
        "8076 8987 8682 6933 8314 7661 7383 8431 7945 8791 8967 7936 7642 9344",
    ),
    _column(
        "SalNet",
        _PUBLISHED,
        0.8210,
        "7750 8810 8310 6950 8260 7890 7410 8790 7470 8460 9360 8330 7930 9170",
    ),
    _column(
        "Ours w/o Fl",
        "the paper's network without masking",
        0.8222,
        "8151 9100 8779 6923 8290 7553 7401 8516 8038 8858 8849 8077 7573 8995",
    ),
    _column(
        "Ours",
        "the paper's network; the figures are in doubt, since the released script that writes them "
        "gives the true labels of the test radiographs to the network",
        0.8335,
        "8073 9069 8401 7901 8131 8377 7465 8728 7831 8575 8605 8494 8123 8915",
        believed=False,
    ),
)

#: Table 3: mean IoU under the oracle protocol of the paper; the average is weighted by boxes.
TABLE_3: dict[str, dict[str, float]] = {
    "FE": {
        "Atelectasis": 0.1713,
        "Cardiomegaly": 0.5515,
        "Effusion": 0.3242,
        "Infiltration": 0.3819,
        "Mass": 0.1768,
        "Nodule": 0.0460,
        "Pneumonia": 0.3097,
        "Pneumothorax": 0.3345,
        "mean": 0.3014,
    },
    "FE w/o MA": {
        "Atelectasis": 0.1212,
        "Cardiomegaly": 0.4430,
        "Effusion": 0.3258,
        "Infiltration": 0.2783,
        "Mass": 0.1429,
        "Nodule": 0.0418,
        "Pneumonia": 0.2328,
        "Pneumothorax": 0.2640,
        "mean": 0.2437,
    },
}
