"""Long short-term memory on CPUs: fast inference, and learning online as in 1997."""

from fastlstm import losses, schedules
from fastlstm._compress import compress_file, decompress_file
from fastlstm._fit import fit
from fastlstm._history import EarlyStopping, History
from fastlstm._info import __version__, build_info, get_num_threads, set_num_threads
from fastlstm._layer import Layer
from fastlstm._layers import GRU, LSTM, LSTM1997, RNN, Linear, Sequential
from fastlstm._online import OnlineLearner
from fastlstm._optim import SGD, Adam, AdamW, RMSprop
from fastlstm._stream import Stream

__all__ = [
    "Adam",
    "AdamW",
    "EarlyStopping",
    "GRU",
    "History",
    "LSTM",
    "LSTM1997",
    "Layer",
    "Linear",
    "OnlineLearner",
    "RMSprop",
    "RNN",
    "SGD",
    "Sequential",
    "Stream",
    "__version__",
    "build_info",
    "compress_file",
    "decompress_file",
    "fit",
    "get_num_threads",
    "losses",
    "schedules",
    "set_num_threads",
]
