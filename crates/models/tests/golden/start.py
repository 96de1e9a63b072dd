"""Makes the files of tests/start.rs: networks with their scores, as PyTorch has them.

    pip install torch safetensors && python crates/models/tests/golden/start.py

A SASRec with the names of its best known implementation in PyTorch (feed-forward layers as convolutions of width 1), norm first
and histories padded at their beginning, and a GRU4Rec of nn.GRU. Weights are random, all of about the same size so that each counts,
and 32 bits wide; scores are computed in 64. Item n has row n, row 0 is padding.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

ITEMS, DIM, LENGTH, BLOCKS, HEADS, HIDDEN = 12, 8, 6, 2, 2, 10
HISTORIES = [[3], [7, 1, 12, 7, 5], [2, 9, 4, 11, 6, 8, 10, 1, 3]]
HERE = Path(__file__).parent


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(DIM, DIM, 1)
        self.conv2 = nn.Conv1d(DIM, DIM, 1)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x.T))).T


class Sasrec(nn.Module):
    def __init__(self):
        super().__init__()
        self.item_emb = nn.Embedding(ITEMS + 1, DIM)
        # Row 0 is that of padding, the newest step has the last.
        self.pos_emb = nn.Embedding(LENGTH + 1, DIM)
        each = lambda make: nn.ModuleList(make() for _ in range(BLOCKS))
        self.attention_layernorms = each(lambda: nn.LayerNorm(DIM))
        self.attention_layers = each(lambda: nn.MultiheadAttention(DIM, HEADS))
        self.forward_layernorms = each(lambda: nn.LayerNorm(DIM))
        self.forward_layers = each(FeedForward)
        self.last_layernorm = nn.LayerNorm(DIM)

    def forward(self, history):
        n = len(history)
        x = self.item_emb(history) + self.pos_emb(LENGTH - n + 1 + torch.arange(n))
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        for norm, attention, second, feed in zip(
            self.attention_layernorms, self.attention_layers, self.forward_layernorms, self.forward_layers
        ):
            y = norm(x)
            x = x + attention(y, y, y, attn_mask=future, need_weights=False)[0]
            x = x + feed(second(x))
        return self.item_emb.weight[1:] @ self.last_layernorm(x)[-1]


class Gru4rec(nn.Module):
    def __init__(self):
        super().__init__()
        self.item_embedding = nn.Embedding(ITEMS + 1, DIM)
        self.gru_layers = nn.GRU(DIM, HIDDEN)
        self.dense = nn.Linear(HIDDEN, DIM)

    def forward(self, history):
        states, _ = self.gru_layers(self.item_embedding(history))
        return self.item_embedding.weight[1:] @ self.dense(states[-1])


def main():
    scores = {}
    for seed, model in enumerate([Sasrec(), Gru4rec()]):
        torch.manual_seed(seed)
        for p in model.parameters():
            nn.init.normal_(p, 0.3, 0.5)
        name = type(model).__name__.lower()
        save_file(model.state_dict(), HERE / f"start_{name}.safetensors")
        model = model.double().eval()
        with torch.no_grad():
            found = [model(torch.tensor(history[-LENGTH:])) for history in HISTORIES]
        scores[name] = [[float(f"{s:.9g}") for s in row.tolist()] for row in found]
    made = {"torch": torch.__version__, "histories": HISTORIES, **scores}
    (HERE / "start.json").write_text(json.dumps(made, indent=1) + "\n")


main()
