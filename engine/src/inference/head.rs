//! A head: a signature that takes examples, and the method it is asked with.
//!
//! Classify and Regress differ in which signatures they take and in what they make of the outputs;
//! everything around that is the same, over every protocol.

use crate::inference::classify::{self, Classifications};
use crate::inference::{predict, regress};
use crate::servable::{Signature, Signatures};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// What is asked of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Classify,
    Regress,
}

impl Method {
    /// The method of that `method_name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            classify::METHOD => Some(Method::Classify),
            regress::METHOD => Some(Method::Regress),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Method::Classify => classify::METHOD,
            Method::Regress => regress::METHOD,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Method::Classify => "classification",
            Method::Regress => "regression",
        }
    }
}

/// What to feed and fetch, and what to make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    Classify(classify::Plan),
    Regress(regress::Plan),
}

/// Result of one head.
pub enum Inference<'t> {
    Classify(Classifications<'t>),
    /// The value of each example.
    Regress(&'t [f32]),
}

impl Head {
    /// # Errors
    /// INVALID_ARGUMENT when there is no signature of that name, or it is not one for the method.
    pub fn new(
        method: Method,
        signatures: &Signatures,
        requested: &str,
        check_method: bool,
    ) -> Result<Self> {
        let name = predict::signature_name(requested);
        let signature = signatures.get(name).ok_or_else(|| {
            Status::invalid_argument(format!("No signature was found with the name: {name}"))
        })?;
        if check_method {
            check(method, signature)?;
        }
        Ok(match method {
            Method::Classify => Head::Classify(classify::Plan::new(signature)?),
            Method::Regress => Head::Regress(regress::Plan::new(signature)?),
        })
    }

    /// Name in the graph of the input that gets the examples.
    pub fn input(&self) -> &str {
        match self {
            Head::Classify(plan) => &plan.input,
            Head::Regress(plan) => &plan.input,
        }
    }

    /// Names in the graph of the outputs to fetch.
    pub fn fetches(&self) -> Vec<String> {
        match self {
            Head::Classify(plan) => plan.fetches(),
            Head::Regress(plan) => plan.fetches(),
        }
    }

    /// Make sense of what was fetched for `count` examples.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when an output is not of the type and shape it has to be.
    pub fn infer<'t>(&self, count: usize, outputs: &[&'t Tensor]) -> Result<Inference<'t>> {
        match self {
            Head::Classify(plan) => plan.classifications(count, outputs).map(Inference::Classify),
            Head::Regress(plan) => plan.regressions(count, outputs).map(Inference::Regress),
        }
    }
}

fn check(method: Method, signature: &Signature) -> Result<()> {
    if signature.method_name == method.name() {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "Expected {} signature method_name to be {}. Was: {}",
        method.noun(),
        method.name(),
        signature.method_name
    )))
}

#[cfg(test)]
mod tests {
    use super::super::classify::tests::example_signature;
    use super::*;

    fn head(method: Method, name: &str, check_method: bool) -> String {
        let mut other = example_signature(&["inputs"], &["scores"]);
        other.method_name = "other".to_owned();
        let regress = example_signature(&["inputs"], &["outputs"]);
        let signatures = [("s".to_owned(), other), ("r".to_owned(), regress)].into();
        match Head::new(method, &signatures, name, check_method) {
            Ok(head) => head.fetches().join(","),
            Err(status) => status.to_string(),
        }
    }

    #[test]
    fn the_method_counts_only_when_it_is_checked() {
        let expected = |noun: &str, method: &str, was: &str| {
            format!(
                "INVALID_ARGUMENT: Expected {noun} signature method_name to be \
                 tensorflow/serving/{method}. Was: {was}"
            )
        };
        assert_eq!(head(Method::Classify, "s", false), "scores:0");
        assert_eq!(
            head(Method::Classify, "s", true),
            expected("classification", "classify", "other")
        );
        assert_eq!(head(Method::Regress, "r", false), "outputs:0");
        assert_eq!(
            head(Method::Regress, "r", true),
            expected("regression", "regress", "tensorflow/serving/classify")
        );
    }

    #[test]
    fn a_name_that_is_left_out_means_the_default() {
        assert_eq!(
            head(Method::Classify, "", true),
            "INVALID_ARGUMENT: No signature was found with the name: serving_default"
        );
    }
}
