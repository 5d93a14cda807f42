"""Writes tests/golden/torch: a tiny XLNet language model as PyTorch saves it, in both layouts and several types.

Usage: python generate_torch.py [directory]. Needs torch (2.9 was used) and transformers (4.57.1), and safetensors.
"""

import pathlib
import sys
from collections import OrderedDict

import torch
from safetensors.torch import save_file
from transformers import XLNetConfig, XLNetLMHeadModel

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "torch")
out.mkdir(exist_ok=True)
torch.manual_seed(0)
config = XLNetConfig(vocab_size=20, d_model=8, n_layer=2, n_head=2, d_inner=12, ff_activation="gelu_new", untie_r=True)
model = XLNetLMHeadModel(config)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.5)  # biases too, so that every one matters
state = OrderedDict(model.state_dict())  # lm_loss.weight shares its storage with the embedding
config.architectures = ["XLNetLMHeadModel"]
config.to_json_file(out / "config.json", use_diff=False)
torch.save(state, out / "zip.bin")
torch.save(state, out / "legacy.bin", _use_new_zipfile_serialization=False)
torch.save(OrderedDict((k, v.to(torch.bfloat16)) for k, v in state.items()), out / "bfloat16.bin")
torch.save(OrderedDict((k, v.half()) for k, v in state.items()), out / "float16_legacy.bin", _use_new_zipfile_serialization=False)
# The same values behind strides, offsets and a view into a larger storage, with a count of steps beside them.
views = OrderedDict()
for name, value in state.items():
    if value.dim() == 2:
        views[name] = value.t().contiguous().t()
    else:
        store = torch.zeros(value.numel() + 3)
        store[3:] = value.flatten()
        views[name] = store[3:].view(value.shape)
views["steps"] = torch.tensor(7)
torch.save(views, out / "views.bin")
save_file({k: v.clone() for k, v in state.items()}, out / "expected.safetensors")
