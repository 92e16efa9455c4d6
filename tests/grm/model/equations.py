"""The model's equations once more, as plainly as they can be written: what `grm.model` is tested against.

Nothing of `grm.model` is used but the names of its parameters. The division reads the concatenation, attention has its
N x N mask, every layer computes every token, the head is decoded cell by cell.
"""

import math

import torch
import torch.nn.functional as F

T, S, A = range(3)


def predict(state, config, template, search, *, training=False):
    """Dictionary of boxes, score_map, size_map, offset_map, categories (layers, B, search tokens) and policies."""
    tokens = [patches(template, state, config) + state["encoder.template_position"]]
    tokens.append(patches(search, state, config) + state["encoder.search_position"])
    x = torch.cat(tokens, dim=1)
    n_template = tokens[0].shape[1]
    categories, policies = [], []
    for layer in range(config.encoder.depth):
        p = Parameters(state, f"encoder.layers.{layer}.")
        normed = layer_norm(x, p, "norm1")
        category, policy = divide(normed, n_template, p, config, layer + 1, training)
        categories.append(category)
        policies.append(policy)
        divides = layer + 1 in config.division_layers and layer + 1 not in config.division.fixed
        epsilon = config.encoder.epsilon if divides else 0
        x = x + linear(attend(normed, policy, p, config, epsilon), p, "attention.projection")
        x = x + linear(gelu(linear(layer_norm(x, p, "norm2"), p, "mlp.0")), p, "mlp.1")
    features = layer_norm(x, Parameters(state, "encoder."), "norm")[:, n_template:]

    side = config.search_side
    image = features.reshape(-1, side, side, config.encoder.width).permute(0, 3, 1, 2)
    score, size, offset = (
        branch(image, Parameters(state, f"head.{name}."), training) for name in ("center", "size", "offset")
    )
    score, size = (m.sigmoid().clamp(1e-4, 1 - 1e-4) for m in (score, size))
    boxes = torch.stack([best_box(*maps) for maps in zip(score, size, offset, strict=True)])
    return {
        "boxes": boxes,
        "score_map": score,
        "size_map": size,
        "offset_map": offset,
        "categories": categories,
        "policies": policies,
    }


def divide(normed, n_template, p, config, number, training):
    """Categories (B, search tokens) and the policy (B, N, 3) of a layer, by Tables 4 and 5 and appendix C."""
    division = config.division
    template, search = normed[:, :n_template], normed[:, n_template:]
    b, n_search, _ = search.shape
    constant = None
    if division.variant == "two_stream":
        constant = A if number == config.encoder.depth else S
    elif division.variant == "one_stream" or number not in config.division_layers:
        constant = A
    elif number in division.fixed:
        constant = {"S": S, "A": A}[division.fixed[number]]
    if constant is not None:
        category = torch.full((b, n_search), constant)
        return category, whole_policy(one_hot(category, normed), n_template)

    pooled = template.max(dim=1).values if division.pooling == "max" else template.mean(dim=1)
    pairs = torch.cat([search, pooled.unsqueeze(1).expand(b, n_search, -1)], dim=-1)
    hidden = gelu(linear(pairs, p, "attention.division.first"))
    hidden = gelu(linear(hidden, p, "attention.division.second"))
    log_p = torch.log_softmax(linear(hidden, p, "attention.division.third"), dim=-1)
    columns = {"sa": (S, A), "ts": (S, T), "tsa": (S, A, T), "ranked": (S, T)}[division.variant]

    if division.soft:
        probability = log_p.exp().clone()
        side, step = config.search_side, division.region
        for y in range(0, side, step):
            for x in range(0, side, step):
                tokens = [(y + i) * side + x + j for i in range(step) for j in range(step)]
                probability[:, tokens] = log_p.exp()[:, tokens].mean(dim=1, keepdim=True)
        return None, whole_policy(spread(probability, columns), n_template)
    if training and division.variant == "ranked":
        category = torch.full((b, n_search), A)
        return category, whole_policy(one_hot(category, normed), n_template)
    if training:
        sample = F.gumbel_softmax(log_p, tau=1, hard=True)
        policy = spread(sample, columns)
        return policy.argmax(-1), whole_policy(policy, n_template)
    ratio = division.ratios.get(number, division.ratio)
    category = torch.stack([decide(rows, columns, division, ratio) for rows in log_p])
    return category, whole_policy(one_hot(category, normed), n_template)


def decide(log_p, columns, division, ratio):
    """Categories of one sample's search tokens from their log-probabilities (search tokens, C)."""
    n = len(log_p)
    if ratio is not None:
        ranking = sorted(range(n), key=lambda i: (log_p[i, 0] - log_p[i, 1]).item())
        boundary, half_band = math.floor(n * ratio), math.floor(n * division.band / 2)
        if division.ratio_rule == "minimum":
            category = decide(log_p, columns, division, None)
            category[ranking[:boundary]] = columns[1]
            return category
        category = [S] * n
        for rank, i in enumerate(ranking):
            if division.band and boundary - half_band <= rank < boundary + half_band:
                category[i] = A
            elif rank < boundary:
                category[i] = columns[1]
        return torch.tensor(category)
    if division.threshold is not None:
        return torch.tensor([columns[1] if row[0].exp() < division.threshold else S for row in log_p])
    return torch.tensor([columns[int(row.argmax())] for row in log_p])


def attend(normed, policy, p, config, epsilon):
    """The paper's Eq. 7 for every head, with the epsilon of its published code: (B, N, width)."""
    t, s = policy[..., T], policy[..., S]
    mask = 1 - t.unsqueeze(2) * s.unsqueeze(1) - s.unsqueeze(2) * t.unsqueeze(1)
    eye = torch.eye(mask.shape[1], dtype=torch.bool)
    mask = torch.where(eye, torch.ones_like(mask), mask)
    q, k, v = linear(normed, p, "attention.qkv").chunk(3, dim=-1)
    d = config.encoder.width // config.encoder.heads
    heads = []
    for h in range(config.encoder.heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)
        weights = mask * torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = (weights + epsilon / scores.shape[-1]) / (weights.sum(-1, keepdim=True) + epsilon)
        heads.append(weights @ v[..., part])
    return torch.cat(heads, dim=-1)


def branch(image, p, training):
    """One branch of the head."""
    for stage in range(4):
        image = F.conv2d(image, p[f"{stage}.convolution.weight"], p[f"{stage}.convolution.bias"], padding=1)
        if training:
            mean, variance = image.mean(dim=(0, 2, 3)), image.var(dim=(0, 2, 3), unbiased=False)
        else:
            mean, variance = p[f"{stage}.norm.running_mean"], p[f"{stage}.norm.running_var"]
        scale = p[f"{stage}.norm.weight"] / torch.sqrt(variance + 1e-5)
        image = (image - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + p[f"{stage}.norm.bias"].view(-1, 1, 1)
        image = image.clamp(min=0)
    return F.conv2d(image, p["4.weight"], p["4.bias"])


def best_box(score, size, offset):
    """The box (4,) at the best cell of one sample's maps."""
    side = score.shape[-1]
    y, x = max(((y, x) for y in range(side) for x in range(side)), key=lambda cell: score[0, cell[0], cell[1]].item())
    return torch.stack([(x + offset[0, y, x]) / side, (y + offset[1, y, x]) / side, size[0, y, x], size[1, y, x]])


def patches(image, state, config):
    """Patch embedding without a convolution, row by row over the grid."""
    side, weight = config.encoder.patch, state["encoder.stem.weight"]
    rows = image.split(side, dim=2)
    cells = [cell.flatten(1) for row in rows for cell in row.split(side, dim=3)]
    return torch.stack(cells, dim=1) @ weight.flatten(1).T + state["encoder.stem.bias"]


class Parameters:
    """The parameters under a prefix."""

    def __init__(self, state, prefix):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return self.state[self.prefix + name]


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(x, p, name):
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
    return centred / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def one_hot(category, like):
    return F.one_hot(category, 3).to(like.dtype)


def spread(columns_of_policy, columns):
    """(B, n, C) to (B, n, 3), columns T, S, A."""
    parts = [torch.zeros_like(columns_of_policy[..., 0])] * 3
    for i, category in enumerate(columns):
        parts[category] = columns_of_policy[..., i]
    return torch.stack(parts, dim=-1)


def whole_policy(search_policy, n_template):
    template = torch.zeros(search_policy.shape[0], n_template, 3, dtype=search_policy.dtype)
    template[..., T] = 1
    return torch.cat([template, search_policy], dim=1)
