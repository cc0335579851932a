"""
`tf.estimator` for TensorFlow that has none, on version 1 graphs.

Export from a model function and a directory of checkpoints, training, evaluation and
prediction in one process, and the exporters.  Names, signatures, files and error
texts are those of `tf.compat.v1.estimator` in TensorFlow 2.15.
"""

from servable.estimator import experimental, export, inputs
from servable.estimator.canned import (
    DNNClassifier,
    DNNEstimator,
    DNNLinearCombinedClassifier,
    DNNLinearCombinedEstimator,
    DNNLinearCombinedRegressor,
    DNNRegressor,
    LinearClassifier,
    LinearEstimator,
    LinearRegressor,
)
from servable.estimator.classification_heads import (
    BinaryClassHead,
    MultiClassHead,
    MultiLabelHead,
)
from servable.estimator.estimator import Estimator
from servable.estimator.estimator_spec import EstimatorSpec
from servable.estimator.exporters import (
    BestExporter,
    Exporter,
    FinalExporter,
    LatestExporter,
)
from servable.estimator.heads import Head
from servable.estimator.installation import install
from servable.estimator.mode_keys import ModeKeys
from servable.estimator.regression_heads import (
    LogisticRegressionHead,
    PoissonRegressionHead,
    RegressionHead,
)
from servable.estimator.run_config import RunConfig, WarmStartSettings
from servable.estimator.train_and_evaluate import (
    EvalSpec,
    TrainSpec,
    train_and_evaluate,
)

__all__ = [
    "BestExporter",
    "BinaryClassHead",
    "DNNClassifier",
    "DNNEstimator",
    "DNNLinearCombinedClassifier",
    "DNNLinearCombinedEstimator",
    "DNNLinearCombinedRegressor",
    "DNNRegressor",
    "Estimator",
    "EstimatorSpec",
    "EvalSpec",
    "Exporter",
    "FinalExporter",
    "Head",
    "LatestExporter",
    "LinearClassifier",
    "LinearEstimator",
    "LinearRegressor",
    "LogisticRegressionHead",
    "ModeKeys",
    "MultiClassHead",
    "MultiLabelHead",
    "PoissonRegressionHead",
    "RegressionHead",
    "RunConfig",
    "TrainSpec",
    "WarmStartSettings",
    "experimental",
    "export",
    "inputs",
    "install",
    "train_and_evaluate",
]
