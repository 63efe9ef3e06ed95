#!/usr/bin/env bash
# diffprivlib 0.6.6 with scikit-learn 1.5.2, seen on 2026-11-30: searches and cross validations spend nothing on record.
#
# Believed: an estimator that gets a BudgetAccountant records each fit there, and raises BudgetError beyond its limit.
# Happens: scikit-learn copies parameters deeply for each fit, and the accountant with them. Each copy spends alone: 21
# fits of epsilon 1 on the same data leave the accountant, whose limit is 1.5, at 0.
# Who is hurt: anyone who tunes a private model by cross_val_score or GridSearchCV and reads what was spent afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffprivlib==0.6.6 scikit-learn==1.5.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from diffprivlib import BudgetAccountant
from diffprivlib.models import GaussianNB
from diffprivlib.utils import BudgetError
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score

data, classes = load_iris(return_X_y=True)
accountant = BudgetAccountant(epsilon=1.5)
model = GaussianNB(epsilon=1.0, bounds=(data.min(axis=0), data.max(axis=0)), accountant=accountant)
fits = len(cross_val_score(model, data, classes, cv=5))
search = GridSearchCV(model, {"var_smoothing": [1e-9, 1e-6, 1e-3]}, cv=5).fit(data, classes)
fits += 5 * 3 + 1
spent = accountant.total()
print(f"{fits} fits of epsilon 1 with a limit of 1.5: the accountant has epsilon {spent[0]}, and no limit was met")
print(f"the accountant of the best model has epsilon {search.best_estimator_.accountant.total()[0]}")
model.fit(data, classes)
print(f"one fit of the model itself: epsilon {accountant.total()[0]}")
try:
    model.fit(data, classes)
except BudgetError:
    print("and another one is refused, as it should be")
else:
    raise SystemExit("another fit was not refused")
assert fits == 21 and spent[0] == 0 and accountant.total()[0] == 1.0
print("still so")
PYTHON
