"""Losses for survival networks: Cox's partial likelihood, discrete hazards, DeepHit, and cosine distance.

torchsurv is imported here and nowhere else.  The discrete losses are not in it; they are held equal to pycox in the
tests (values computed once with pycox 0.3.0, which does not run on current SciPy) and to their definitions.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch.nn import functional

from pathology.errors import MissingDependencyError

with warnings.catch_warnings():
    # torchsurv 0.2.0 calls torch.jit.script at import, which torch 2.12 deprecates.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
    try:
        from torchsurv.loss.cox import neg_partial_log_likelihood
    except ImportError as error:  # pragma: no cover - torchsurv is installed where the tests run
        raise MissingDependencyError(
            "neural survival models use torchsurv, which is not installed", remedy="Install the extra 'survival'"
        ) from error

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
        How deaths at one time are handled.

    Returns
    -------
    Tensor
        Scalar, the mean over distinct event times (over events, where none share a time); 0 with gradient where
        there is no event.
    """
    if not bool(event.any()):
        return (log_hazard * 0).sum()
    # The likelihood does not change when all log hazards are shifted; the shift keeps exp() finite.
    shifted = log_hazard - log_hazard.detach().max()
    # Only the order of times matters.  Ranks put a patient censored at the time of an event behind it, so that he
    # counts as still at risk; torchsurv 0.2.0 leaves that to the sort where no two events share a time.
    _, rank = torch.unique(time, return_inverse=True)
    order = (2 * rank + (~event.bool()).to(rank.dtype)).to(shifted.dtype)
    with warnings.catch_warnings():
        # torchsurv says at every call that it found ties; they are what the method is for.
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
        Mean over patients: every interval up to and including the last one is a survival, except that of the event.
    """
    k = torch.arange(logits.shape[1], device=logits.device)
    reached = k[None, :] <= interval[:, None]
    target = torch.zeros_like(logits)
    target[torch.arange(len(logits)), interval] = event.to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * reached).sum(dim=1).mean()


def deephit_loss(logits: Tensor, interval: Tensor, event: Tensor, *, alpha: float = 0.2, sigma: float = 0.1) -> Tensor:
    """Return DeepHit's loss for one kind of event (Lee 2018, AAAI, equations 3 and 4).

    Parameters
    ----------
    logits
        Scores of the intervals, shape (N, K); one more class, "later than all", has score 0, and the softmax over all
        K + 1 gives the probability mass.
    interval
        Interval of the event or of the censoring, int64, 0 to K - 1, shape (N,).
    event
        bool, shape (N,).
    alpha
        Share of the likelihood, 0 to 1; the rest is the ranking loss.
    sigma
        Width of the ranking loss's exponential.

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
        Not negative, shape (...); 0 leaves an entry out.

    Returns
    -------
    Tensor
        Scalar, 0 where directions agree to 2 where they oppose; 0 with gradient where every weight is 0.
    """
    distance = 1 - functional.cosine_similarity(output, target, dim=-1)
    total = weight.sum()
    return (distance * weight).sum() / total if bool(total > 0) else (distance * 0).sum()
