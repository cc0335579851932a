//! MultiInference: several heads of one model, examples decoded and run once.

use crate::inference::head::{Head, Inference, Method};
use crate::inference::predict;
use crate::servable::Signatures;
use crate::serving_map::ModelSpec;
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// One head, as the request asks for it.
pub struct Task {
    pub spec: ModelSpec,
    pub method_name: String,
}

/// What one run has to feed and fetch for all heads.
pub struct Plan {
    /// Names in the graph of the inputs that all get the examples.
    pub inputs: Vec<String>,
    /// Names in the graph of what to fetch, each once.
    pub fetches: Vec<String>,
    /// Resolved signature names, in the order of the tasks.
    pub signature_names: Vec<String>,
    heads: Vec<Head>,
}

impl Plan {
    /// # Errors
    /// Specification 1.8: INVALID_ARGUMENT, or UNIMPLEMENTED for a method that is neither of the
    /// two.
    pub fn new(signatures: &Signatures, tasks: &[Task], check_method: bool) -> Result<Self> {
        let mut plan = Self {
            inputs: Vec::new(),
            fetches: Vec::new(),
            signature_names: Vec::new(),
            heads: Vec::new(),
        };
        let model = tasks.first().map(|task| task.spec.name.as_str()).unwrap_or_default();
        for task in tasks {
            plan.add(signatures, model, task, check_method)?;
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        signatures: &Signatures,
        model: &str,
        task: &Task,
        check_method: bool,
    ) -> Result<()> {
        if task.spec.name.is_empty() {
            return Err(Status::invalid_argument("Found ModelSpec with an empty model name."));
        }
        if task.spec.name != model {
            return Err(Status::invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            ));
        }
        let name = predict::signature_name(&task.spec.signature_name);
        if self.signature_names.iter().any(|seen| seen == name) {
            return Err(Status::invalid_argument(format!(
                "Duplicate evaluation of signature: {name}"
            )));
        }
        if !signatures.contains_key(name) {
            return Err(Status::invalid_argument(format!(
                "Requested signature not found in model graph: {name}"
            )));
        }
        let method = Method::from_name(&task.method_name).ok_or_else(|| {
            Status::unimplemented(format!(
                "Unsupported signature method_name: {}",
                task.method_name
            ))
        })?;
        let head = Head::new(method, signatures, name, check_method)?;
        self.signature_names.push(name.to_owned());
        add_once(&mut self.inputs, head.input().to_owned());
        for fetch in head.fetches() {
            add_once(&mut self.fetches, fetch);
        }
        self.heads.push(head);
        Ok(())
    }

    /// Result of every head, in the order of the tasks, from what was fetched for `count`
    /// examples.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when an output is not of the type and shape it has to be.
    pub fn inferences<'t>(
        &self,
        count: usize,
        outputs: &'t [Tensor],
    ) -> Result<Vec<Inference<'t>>> {
        let of = |fetches: Vec<String>| -> Vec<&'t Tensor> {
            let at = |fetch: &String| self.fetches.iter().position(|seen| seen == fetch);
            fetches.iter().filter_map(at).filter_map(|at| outputs.get(at)).collect()
        };
        self.heads.iter().map(|head| head.infer(count, &of(head.fetches()))).collect()
    }
}

fn add_once(names: &mut Vec<String>, name: String) {
    if !names.contains(&name) {
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify::tests::{example_signature, floats};
    use super::super::{classify, regress};
    use super::*;

    fn signatures() -> Signatures {
        [
            ("classify".to_owned(), example_signature(&["inputs"], &["scores"])),
            ("regress".to_owned(), example_signature(&["inputs"], &["outputs"])),
        ]
        .into()
    }

    fn task(model: &str, signature: &str, method: &str) -> Task {
        let spec = ModelSpec {
            name: model.to_owned(),
            signature_name: signature.to_owned(),
            ..ModelSpec::default()
        };
        Task { spec, method_name: method.to_owned() }
    }

    #[test]
    fn heads_are_fetched_in_one_run_and_answered_in_their_order() {
        let tasks =
            [task("m", "regress", regress::METHOD), task("m", "classify", classify::METHOD)];
        let plan = Plan::new(&signatures(), &tasks, false).unwrap();
        assert_eq!(plan.inputs, ["inputs:0"]);
        assert_eq!(plan.fetches, ["outputs:0", "scores:0"]);

        let outputs = [floats(&[1], &[3.0]), floats(&[1, 1], &[0.5])];
        let inferences = plan.inferences(1, &outputs).unwrap();
        assert!(matches!(inferences[0], Inference::Regress([3.0])));
        let Inference::Classify(result) = &inferences[1] else { panic!("a regression") };
        assert_eq!(result.of(0).collect::<Vec<_>>(), [(&b""[..], 0.5)]);
    }

    #[test]
    fn tasks_that_do_not_go_together_are_refused() {
        for (tasks, expected) in [
            (
                vec![task("", "regress", regress::METHOD)],
                "INVALID_ARGUMENT: Found ModelSpec with an empty model name.",
            ),
            (
                vec![task("m", "regress", regress::METHOD), task("n", "", regress::METHOD)],
                "INVALID_ARGUMENT: All ModelSpecs in a MultiInferenceRequest must access the same \
                 model name.",
            ),
            (
                vec![task("m", "regress", regress::METHOD), task("m", "regress", classify::METHOD)],
                "INVALID_ARGUMENT: Duplicate evaluation of signature: regress",
            ),
            (
                vec![task("m", "", regress::METHOD)],
                "INVALID_ARGUMENT: Requested signature not found in model graph: serving_default",
            ),
            (
                vec![task("m", "regress", "tensorflow/serving/predict")],
                "UNIMPLEMENTED: Unsupported signature method_name: tensorflow/serving/predict",
            ),
        ] {
            let refused = Plan::new(&signatures(), &tasks, false).err().unwrap();
            assert_eq!(refused.to_string(), expected);
        }
    }
}
