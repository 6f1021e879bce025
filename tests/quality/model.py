"""A small Llama in plain PyTorch, with the tensor names and conventions of
Hugging Face Transformers (RMSNorm, rotate_half RoPE, grouped queries, SwiGLU)."""
import json
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from task import TASK_JSON, VOCAB


@dataclass
class Config:
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 16
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1000000.0
    vocab_size: int = VOCAB
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rotary(config, start, length, device=None):
    d = config.head_dim
    inverse = config.rope_theta ** (-torch.arange(0, d, 2, device=device).float() / d)
    angle = torch.arange(start, start + length, device=device).float()[:, None] * inverse
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x, cos, sin, cache):
        """cache: None (causal over x), or a dict. An empty dict is filled with q
        (post-RoPE), k (post-RoPE) and v; one that holds k, v and keep
        [batch, kv heads, length] is attended to where keep is set, and extended."""
        b, n, _ = x.shape
        d, group = self.c.head_dim, self.c.num_attention_heads // self.c.num_key_value_heads
        q = rotate(self.q_proj(x).view(b, n, -1, d).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, n, -1, d).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, n, -1, d).transpose(1, 2)
        mask = None
        if cache:
            keep = torch.cat([cache["keep"], cache["keep"].new_ones(*k.shape[:3])], 2)
            k, v = torch.cat([cache["k"], k], 2), torch.cat([cache["v"], v], 2)
            cache.update(k=k, v=v, keep=keep)
            causal = torch.ones(n, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - n)
            mask = (keep[:, :, None] & causal).repeat_interleave(group, 1)
        elif cache is not None:
            cache.update(q=q, k=k, v=v)
        out = F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1),
            attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(b, n, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, cache):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = c = config or Config()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.model.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * c.num_hidden_layers) ** -0.5 if "o_proj" in name or "down_proj" in name else 1
                nn.init.normal_(p, std=scale * (1 if "embed" in name else p.shape[1] ** -0.5))

    def forward(self, tokens, start=0, caches=None, at=None, states=None):
        """Logits, at the token indices `at` only if given; start: position of the
        first token; caches: one per layer, see Attention; states: a list that gets
        each layer's output."""
        x = self.model.embed_tokens(tokens)
        cos, sin = rotary(self.config, start, tokens.shape[1], tokens.device)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, caches[i] if caches is not None else None)
            if states is not None:
                states.append(x)
        return self.lm_head(self.model.norm(x if at is None else x[:, at]))


def save(model, path):
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, path, {"format": "pt", "config": json.dumps(asdict(model.config)), "task": TASK_JSON})


def load(path):
    with safe_open(path, "pt") as f:
        model = Llama(Config(**json.loads(f.metadata()["config"])))
        model.load_state_dict({k: f.get_tensor(k) for k in f.keys()})
    return model.eval()
