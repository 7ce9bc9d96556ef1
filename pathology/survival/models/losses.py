"""Losses for survival networks: Cox's partial likelihood, discrete hazards, DeepHit, and cosine distance.

The only file that imports torchsurv.  It lacks the discrete losses; these are tested against pycox
(values computed once with pycox 0.3.0, which does not run on current SciPy) and against their definitions.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch.nn import functional

from pathology.extras import missing_extra

with warnings.catch_warnings():
    # torchsurv 0.2.0 calls torch.jit.script at import, which torch 2.12 deprecates.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
    try:
        from torchsurv.loss.cox import neg_partial_log_likelihood
    except ImportError as error:  # pragma: no cover - torchsurv is installed in the test environment
        raise missing_extra("neural survival models need torchsurv", "survival") from error

__all__ = ["cosine_distance_loss", "cox_loss", "deephit_loss", "logistic_hazard_loss"]

Tensor = torch.Tensor


def cox_loss(log_hazard: Tensor, time: Tensor, event: Tensor, *, ties: Literal["efron", "breslow"] = "efron") -> Tensor:
    """Return the negative log partial likelihood (Cox 1975), by torchsurv.

    Parameters
    ----------
    log_hazard, time
        float, shape (N,).
    event
        bool, shape (N,).
    ties
        Method for tied event times.

    Returns
    -------
    Tensor
        Scalar, the mean over distinct event times (over events, if there are no ties); 0 with gradient if
        there is no event.
    """
    if not bool(event.any()):
        return (log_hazard * 0).sum()
    # The likelihood is invariant to a shift of all log hazards; the shift keeps exp() finite.
    shifted = log_hazard - log_hazard.detach().max()
    # Only the order of times matters.  Ranks place a patient censored at an event time after the event, so that the
    # patient counts as at risk; torchsurv 0.2.0 leaves this to the sort if there are no tied events.
    _, rank = torch.unique(time, return_inverse=True)
    order = (2 * rank + (~event.bool()).to(rank.dtype)).to(shifted.dtype)
    with warnings.catch_warnings():
        # torchsurv warns about ties at every call; the method handles them.
        warnings.filterwarnings("ignore", message="Ties in `time` detected", category=UserWarning)
        loss: Tensor = neg_partial_log_likelihood(shifted, event.bool(), order, ties_method=ties, reduction="mean")
    return loss


def logistic_hazard_loss(logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
    """Return the negative log likelihood of discrete hazards (Gensheimer and Narasimhan 2019, PeerJ 7:e6257).

    Parameters
    ----------
    logits
        Log odds of the event in each interval, given that it is reached, shape (N, K).
    interval
        Interval of the event or of the censoring, int64, 0 to K - 1, shape (N,).
    event
        bool, shape (N,).

    Returns
    -------
    Tensor
        Mean over patients: every interval up to the last one counts as survived, except that of the event.
    """
    k = torch.arange(logits.shape[1], device=logits.device)
    reached = k[None, :] <= interval[:, None]
    target = torch.zeros_like(logits)
    target[torch.arange(len(logits)), interval] = event.to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * reached).sum(dim=1).mean()


def deephit_loss(logits: Tensor, interval: Tensor, event: Tensor, *, alpha: float = 0.2, sigma: float = 0.1) -> Tensor:
    """Return the DeepHit loss for a single event type (Lee 2018, AAAI, equations 3 and 4).

    Parameters
    ----------
    logits
        Scores of the intervals, shape (N, K); an extra class, "beyond the last interval", has score 0, and the
        softmax over all K + 1 is the probability mass.
    interval
        Interval of the event or of the censoring, int64, 0 to K - 1, shape (N,).
    event
        bool, shape (N,).
    alpha
        Weight of the likelihood, 0 to 1; the rest is the ranking loss.
    sigma
        Scale of the exponential in the ranking loss.

    Returns
    -------
    Tensor
        Scalar.
    """
    padded = functional.pad(logits, (0, 1))
    log_mass = functional.log_softmax(padded, dim=1)
    rows = torch.arange(len(logits))
    log_event = log_mass[rows, interval]
    later = torch.arange(padded.shape[1], device=logits.device)[None, :] > interval[:, None]
    log_survived = torch.logsumexp(log_mass.masked_fill(~later, -torch.inf), dim=1)
    likelihood = -torch.where(event, log_event, log_survived).mean()

    incidence = log_mass.exp().cumsum(dim=1)
    # Entry (i, j): incidence of patient j in the interval in which patient i had the event.
    at_event = incidence[:, interval].T
    own = at_event.diagonal()[:, None]
    shorter = event[:, None] & (
        (interval[:, None] < interval[None, :]) | ((interval[:, None] == interval[None, :]) & ~event[None, :])
    )
    ranking = (shorter * torch.exp((at_event - own) / sigma)).mean(dim=1).mean()
    return alpha * likelihood + (1 - alpha) * ranking


def cosine_distance_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of 1 - cos(angle between output and target).

    Parameters
    ----------
    output, target
        Shape (..., D).
    weight
        Non-negative, shape (...); 0 excludes an entry.

    Returns
    -------
    Tensor
        Scalar from 0 (same direction) to 2 (opposite directions); 0 with gradient if all weights are 0.
    """
    distance = 1 - functional.cosine_similarity(output, target, dim=-1)
    total = weight.sum()
    return (distance * weight).sum() / total if bool(total > 0) else (distance * 0).sum()
