"""The plain loop of beam search: one static batch, slow twin of the engine's, and the decoder of evaluation."""

from collections.abc import Sequence
from functools import partial

import torch

from model.beam_search import BeamSearch, BeamSettings, Candidate
from model.greedy import begin
from model.transformer import Transformer


@torch.inference_mode()
def generate_beams(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: BeamSettings,
    forced_bos_token: int | None = None,
    suppressed: Sequence[int] = (),
) -> list[list[tuple[float, list[int]]]]:
    """For each prompt (source, for an encoder-decoder) its finished beams, best first: score, and new tokens
    without the end token. `forced_bos_token` follows an encoder-decoder's start token; it is not new.
    `suppressed` are never chosen.
    """
    ids, context = begin(model, prompts, forced_bos_token)
    searches: list[BeamSearch[tuple[float, list[int]]]] = [BeamSearch(settings) for _ in prompts]
    # The running beams, those of one search together: whose each is, and what it has said.
    owners, texts = list(range(len(prompts))), [list[int]() for _ in prompts]
    while True:
        logits = model.logits(model.decode(ids.flatten(), context).view(*ids.shape, -1)[:, -1])
        logprobs = logits.float().log_softmax(-1)
        logprobs[:, list(suppressed)] = -torch.inf
        sums = torch.tensor([score for s in searches if not s.is_done for score in s.scores])
        found = (logprobs + sums.to(logprobs.device)[:, None]).topk(settings.num_candidates)
        values, tokens = found.values.tolist(), found.indices.tolist()
        rows: list[int] = []
        next_owners: list[int] = []
        next_texts: list[list[int]] = []
        for owner in dict.fromkeys(owners):
            mine = [row for row, other in enumerate(owners) if other == owner]
            candidates = [
                Candidate(row, token, score)
                for row in mine
                for token, score in zip(tokens[row], values[row], strict=True)
            ]
            going_on = searches[owner].advance(candidates, partial(_finished, texts))
            if not searches[owner].is_done:
                rows += [candidate.beam for candidate in going_on]
                next_owners += [owner] * len(going_on)
                next_texts += [[*texts[candidate.beam], candidate.token_id] for candidate in going_on]
        if not rows:
            return [search.results for search in searches]
        owners, texts = next_owners, next_texts
        context.select(torch.tensor(rows, device=ids.device))
        context.grow()
        ids = torch.tensor([[text[-1]] for text in texts], device=ids.device)


def _finished(
    texts: Sequence[list[int]], candidate: Candidate, score: float, is_end: bool
) -> tuple[float, list[int]]:
    return score, texts[candidate.beam] + ([] if is_end else [candidate.token_id])
