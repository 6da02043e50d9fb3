"""The least that reads a batch, scores it, and tells log loss and AUC: `floor.py BATCH MODEL`."""

import json
import sys

import lightgbm
import numpy as np
import pandas as pd

frame = pd.read_csv(sys.argv[1], sep=";")
y = frame.pop("quality").to_numpy() > 6.5
p = lightgbm.Booster(model_file=sys.argv[2]).predict(frame.to_numpy())
log_loss = -np.log(np.where(y, p, 1 - p)).mean()
good, others = np.sort(p[y]), np.sort(p[~y])
below = [np.searchsorted(others, good, side=side).sum() for side in ("left", "right")]
auc = sum(below) / 2 / (len(good) * len(others))  # an equal score counts half
print(json.dumps({"quality": {"log_loss": float(log_loss), "roc_auc": float(auc)}}))
