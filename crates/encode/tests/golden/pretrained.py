"""Makes pretrained.json: vectors of the transformers library for small networks with weights that look random.

    pip install torch transformers pillow && python crates/encode/tests/golden/pretrained.py

Number i of tensor t (in the order of their names) is 0.3 mixed(i, t); weights of norms have 1 added. Texts are words of a small
list; pictures are waves, one of just the size that the network sees and one that is made smaller and cut. The printed versions
are stored with the numbers.
"""

import json
from pathlib import Path

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = "the a book whale sea ship captain of love and pride old 白 鲸 морской".split()
TEXTS = ["the old captain", "Love and Pride", "白 鲸", "морской whale zzz", "a book of the sea " * 9]
STACK = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}


def mixed(i, t):
    """From -1 to 1, exactly the same in every language."""
    h = (i * 2654435761 + t * 40503) % 2**32
    h = (h ^ h >> 15) * 2246822519 % 2**32
    return ((h ^ h >> 13) - 2**31) / 2**31


def fill(model):
    """Sets the weights, and lists their names and shapes."""
    tensors = {k: v for k, v in sorted(model.state_dict().items()) if v.is_floating_point()}
    for t, (name, tensor) in enumerate(tensors.items()):
        value = torch.tensor([mixed(i, t) for i in range(tensor.numel())], dtype=torch.float64)
        norm = "norm" in name.lower() or "layrnorm" in name
        value = 0.3 * value + (1 if norm and name.endswith("weight") else 0)
        tensor.copy_(value.reshape(tensor.shape).float())
    model.eval()
    return [[name, list(tensor.shape)] for name, tensor in tensors.items()]


def words(first, last):
    """A tokeniser of whole words, between a first and a last token."""
    vocab = [*first, *WORDS, *last]
    ids = {word: i for i, word in enumerate(vocab)}
    unknown = next(word for word in vocab if "unk" in word.lower())
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, ids


def numbers(t):
    return [float(f"{v:.7g}") for v in t.detach().flatten().tolist()]


def sentence(kind, config, cls):
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if kind == "bert" else ["<s>", "<pad>", "</s>", "<unk>"]
    begin, end = ("[CLS]", "[SEP]") if kind == "bert" else ("<s>", "</s>")
    tokenizer, ids = words(first, [])
    tokenizer.post_processor = processors.BertProcessing((end, ids[end]), (begin, ids[begin]))
    config = config(vocab_size=len(ids), max_position_embeddings=24, hidden_act="gelu", **STACK)
    model = cls(config, add_pooling_layer=False)
    tensors = fill(model)
    most = 24 if kind == "bert" else 22
    hidden = []
    for text in TEXTS:
        tokenizer.enable_truncation(most)
        tokens = torch.tensor([tokenizer.encode(text).ids])
        hidden.append(model(input_ids=tokens).last_hidden_state[0])
    tokenizer.no_truncation()
    return {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "tokenizer": json.loads(tokenizer.to_str()),
        "tensors": tensors,
        "cls": [numbers(h[0]) for h in hidden],
        "mean": [numbers(h.mean(0)) for h in hidden],
        "max": [numbers(h.max(0).values) for h in hidden],
    }


def picture(w, h):
    """A wave in each channel."""
    def at(x, y):
        return tuple(round(127.5 + 100 * torch.sin(torch.tensor(0.13 * x * (c + 1) + 0.07 * y + c, dtype=torch.float64)).item()) for c in range(3))

    image = Image.new("RGB", (w, h))
    image.putdata([at(x, y) for y in range(h) for x in range(w)])
    return image


def both(kind, config, cls, processor, first, last, act):
    tokenizer, ids = words(first, last)
    if kind == "clip":
        tokenizer.post_processor = processors.BertProcessing(("<end>", ids["<end>"]), ("<start>", ids["<start>"]))
    else:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
    text = {**STACK, "vocab_size": len(ids), "max_position_embeddings": 16, "hidden_act": act}
    if kind == "clip":
        text["eos_token_id"] = ids["<end>"]
    vision = {**STACK, "image_size": 16, "patch_size": 8, "hidden_act": act, "intermediate_size": 24}
    if kind == "clip":
        vision["hidden_size"] = 18
    extra = {"projection_dim": 10} if kind == "clip" else {}
    config = config(text_config=text, vision_config=vision, **extra)
    model = cls(config)
    tensors = fill(model)
    tokenizer.enable_truncation(16)
    if kind == "siglip":
        tokenizer.enable_padding(length=16, pad_id=ids["<pad>"], pad_token="<pad>")
    pooled = lambda out: out if isinstance(out, torch.Tensor) else out.pooler_output
    texts = [numbers(pooled(model.get_text_features(torch.tensor([tokenizer.encode(t).ids])))) for t in TEXTS]
    pictures = []
    for w, h in [(16, 16), (50, 37)]:
        pixels = processor(images=picture(w, h), return_tensors="pt")["pixel_values"]
        pictures.append(numbers(pooled(model.get_image_features(pixels))))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "tokenizer": json.loads(tokenizer.to_str()),
        "preprocessor": json.loads(processor.to_json_string()),
        "tensors": tensors,
        "texts": texts,
        "pictures": pictures,
    }


with torch.no_grad():
    clip_processor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    siglip_processor = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    made = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "texts": TEXTS,
        "bert": sentence("bert", transformers.BertConfig, transformers.BertModel),
        "roberta": sentence("roberta", lambda **k: transformers.RobertaConfig(type_vocab_size=1, pad_token_id=1, **k), transformers.RobertaModel),
        "clip": both("clip", transformers.CLIPConfig, transformers.CLIPModel, clip_processor, ["<start>", "<unk>"], ["<end>"], "quick_gelu"),
        "siglip": both("siglip", transformers.SiglipConfig, transformers.SiglipModel, siglip_processor, ["<pad>", "</s>", "<unk>"], [], "gelu_pytorch_tanh"),
    }
Path(__file__).with_suffix(".json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")
