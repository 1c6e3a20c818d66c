"""CLIP's tokenizer: prompts to ids, equal to transformers' fast one."""

from lcmcore.tokenizer.clip import CLIPTokenizer as CLIPTokenizer
from lcmcore.tokenizer.files import END as END
from lcmcore.tokenizer.files import START as START
