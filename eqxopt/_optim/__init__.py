from .adam import Adam as Adam, AdamW as AdamW
from .sgd import SGD as SGD
