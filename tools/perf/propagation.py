"""A propagation layer beside PyTorch Geometric's: ``python -m tools.perf.propagation``.

Forward and backward of one layer on the training graph: our two half products with prebuilt transposes; PyG's
``LGConv`` on an edge list (it normalises and scatters at every call); the same without its normalisation; and torch's
CSR matrix, which finds its transpose at each backward pass.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

import reclm
from reclm.backbones.lightgcn import BipartiteGraph, csr_tensor
from tools.perf.common import arguments, machine, side_by_side


def main() -> None:
    """Print milliseconds a layer of each, and how many times ours it takes."""
    from torch_geometric.nn import LGConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    parser = arguments("a propagation layer beside PyTorch Geometric's")
    parser.add_argument("--dim", type=int, default=64)
    options = parser.parse_args()
    reclm.workspace(options.home)
    data = reclm.load_dataset(options.dataset)
    users, items = len(data.users), len(data.items)
    graph = BipartiteGraph(data.train.matrix(users, items))
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in graph.interactions.nonzero())
    edges = torch.stack([torch.cat([rows, columns + users]), torch.cat([columns + users, rows])])
    _, weight = gcn_norm(edges, None, users + items, add_self_loops=False, dtype=torch.float32)
    assert isinstance(weight, Tensor)
    square = csr_tensor(
        sparse.csr_array((weight.numpy(), edges.flip(0).numpy()), shape=(users + items, users + items))
    )
    features = torch.randn(users + items, options.dim, requires_grad=True)
    upstream = torch.randn(users + items, options.dim)
    normalising, bare = LGConv(), LGConv(normalize=False)

    def ours() -> Tensor:
        user, item = features.split([users, items])
        return torch.cat([graph.users_from(item), graph.items_from(user)])

    layers = {
        "ours": ours,
        "LGConv": lambda: normalising(features, edges),
        "LGConv, normalised once": lambda: bare(features, edges, weight),
        "torch CSR": lambda: square @ features,
    }
    expected = ours().detach()
    for name, layer in layers.items():
        torch.testing.assert_close(layer().detach(), expected, msg=lambda text, name=name: f"{name}: {text}")
    seconds = side_by_side(
        {
            name: lambda layer=layer: torch.autograd.grad(layer(), features, upstream)
            for name, layer in layers.items()
        },
        options.repeats,
    )
    print(f"{data.name}: {users:,} users, {items:,} items, {len(rows):,} edges, d {options.dim}; {machine()}")
    for name, took in seconds.items():
        print(f"{name:24} {1000 * took:8.1f} ms   {took / seconds['ours']:5.1f}x")


if __name__ == "__main__":
    main()
