"""The losses a student is trained on: pure functions of tensors, and the registry that names them."""

from .abkd import ABKD, abkd
from .balanced_softmax import BalancedSoftmax, balanced_softmax
from .bayesian import BayesianKD, bayesian_kd, log_mean_probabilities
from .bkd import BKD, bkd
from .cckd import CCKD, cckd
from .ce import CrossEntropy
from .ckd import CKD, ckd
from .cmkd import CMKD, cmkd
from .correlation import soft_ranks
from .dist import DIST, dist
from .dkd import DKD, dkd
from .grkd import GRKD, grkd, label_pair_conflict
from .grkd_rebalanced import RebalancedGRKD, grkd_rebalanced
from .kd import KD, kd, kd_top
from .listmle import ListMLE, listmle
from .logit_adjustment import LogitAdjustment, logit_adjustment
from .lskd import LSKD, standardise
from .ltkd import LTKD, group_masses, ltkd, ltkd_top
from .mixkd import MixKD, mixkd
from .objective import Objective
from .pld import PLD, pld
from .redistill import REDistill, redistill
from .registry import LOSSES, Loss, LossInputs, TeacherMass, parse_loss, register
from .rlkd import RLKD, rlkd

__all__ = [
    "ABKD",
    "BKD",
    "CCKD",
    "CKD",
    "CMKD",
    "DIST",
    "DKD",
    "GRKD",
    "KD",
    "LOSSES",
    "LSKD",
    "LTKD",
    "PLD",
    "RLKD",
    "BalancedSoftmax",
    "BayesianKD",
    "CrossEntropy",
    "ListMLE",
    "LogitAdjustment",
    "Loss",
    "LossInputs",
    "MixKD",
    "Objective",
    "REDistill",
    "RebalancedGRKD",
    "TeacherMass",
    "abkd",
    "balanced_softmax",
    "bayesian_kd",
    "bkd",
    "cckd",
    "ckd",
    "cmkd",
    "dist",
    "dkd",
    "grkd",
    "grkd_rebalanced",
    "group_masses",
    "kd",
    "kd_top",
    "label_pair_conflict",
    "listmle",
    "log_mean_probabilities",
    "logit_adjustment",
    "ltkd",
    "ltkd_top",
    "mixkd",
    "parse_loss",
    "pld",
    "redistill",
    "register",
    "rlkd",
    "soft_ranks",
    "standardise",
]
