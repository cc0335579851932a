//! Servables written in Python: called with the GIL held, on the engine's compute threads.

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::servable::aliases::{gather, Aliases};
use crate::servable::{RunOptions, Servable, Signatures};
use crate::status::{Code, Result, Status};
use crate::tensor::{num_elements, Buffer, DType, Data, Strings, Tensor};

/// A Python object that answers runs; see `PythonServable` in `_engine.pyi`.
pub struct PythonServable {
    object: Py<PyAny>,
    aliases: Aliases,
}

impl PythonServable {
    /// # Errors
    /// INVALID_ARGUMENT when the bytes are no `SignatureDefMap`.
    pub fn new(object: Py<PyAny>, signature_def_map: Bytes) -> Result<Self> {
        Ok(Self { object, aliases: Aliases::unchecked(signature_def_map)? })
    }

    fn call(
        &self,
        py: Python<'_>,
        feeds: &[(String, Tensor)],
        fetches: &[String],
    ) -> PyResult<Result<Vec<Tensor>>> {
        let calls = match self.aliases.calls(feeds, fetches) {
            Ok(calls) => calls,
            Err(status) => return Ok(Err(status)),
        };
        let mut results: Vec<Option<Tensor>> = fetches.iter().map(|_| None).collect();
        for call in calls {
            let inputs = PyDict::new(py);
            for (alias, tensor) in &call.inputs {
                inputs.set_item(alias, to_python(py, tensor)?)?;
            }
            let arguments = (call.signature_name, &inputs, call.output_names());
            let answer = self.object.call_method1(py, "run", arguments)?;
            let answer: Vec<Bound<'_, PyTuple>> = answer.extract(py)?;
            if answer.len() != call.outputs.len() {
                return Ok(Err(Status::internal(format!(
                    "The servable returned {} outputs; {} were asked for",
                    answer.len(),
                    call.outputs.len()
                ))));
            }
            for ((at, alias), tensor) in call.outputs.into_iter().zip(answer) {
                match from_python(&tensor)? {
                    Ok(tensor) => results[at] = Some(tensor),
                    Err(what) => {
                        return Ok(Err(Status::internal(format!(
                            "The servable's output {alias} is no tensor: {what}"
                        ))))
                    }
                }
            }
        }
        Ok(gather(results))
    }
}

impl Servable for PythonServable {
    fn signatures(&self) -> &Signatures {
        self.aliases.signatures()
    }

    fn signature_def_map(&self) -> &Bytes {
        self.aliases.signature_def_map()
    }

    fn run(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        _options: RunOptions,
    ) -> Result<Vec<Tensor>> {
        Python::attach(|py| {
            self.call(py, &feeds, fetches).unwrap_or_else(|error| Err(status_of(py, &error)))
        })
    }
}

/// The status of an exception: its own code and text when it has them, and never a trace.
pub(crate) fn status_of(py: Python<'_>, error: &PyErr) -> Status {
    let value = error.value(py);
    let code = value.getattr("code").and_then(|code| code.extract::<i32>());
    let message = value.getattr("message").and_then(|message| message.extract::<String>());
    match (code, message) {
        (Ok(code), Ok(message)) => Status::new(Code::from_number(code), message),
        _ => Status::internal("The servable failed"),
    }
}

/// (number of the type, shape, data): a buffer for dense elements, bytes objects for strings.
pub(crate) fn to_python<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyTuple>> {
    let dtype = tensor.dtype().number();
    let shape = PyTuple::new(py, tensor.shape())?;
    let data = match tensor.data() {
        Data::Dense(buffer) => PyBytes::new(py, buffer.as_slice()).into_any(),
        Data::Strings(strings) => {
            PyList::new(py, strings.iter().map(|string| PyBytes::new(py, string)))
                .map(Bound::into_any)?
        }
    };
    (dtype, shape, data).into_pyobject(py)
}

pub(crate) fn from_python(
    tensor: &Bound<'_, PyTuple>,
) -> PyResult<std::result::Result<Tensor, String>> {
    let (dtype, shape, data): (i32, Vec<i64>, Bound<'_, PyAny>) = tensor.extract()?;
    let Some(dtype) = DType::from_number(dtype) else {
        return Ok(Err(format!("unknown type {dtype}")));
    };
    let Some(elements) = num_elements(&shape) else {
        return Ok(Err(format!("impossible shape {shape:?}")));
    };
    let Some(size) = dtype.size() else {
        let strings: Vec<Vec<u8>> = data.extract()?;
        if strings.len() != elements {
            return Ok(Err(format!("{} strings for shape {shape:?}", strings.len())));
        }
        return Ok(Ok(Tensor::strings(shape, strings.into_iter().collect::<Strings>())));
    };
    let source = PyBuffer::<u8>::get(&data)?;
    if source.len_bytes() != elements * size {
        return Ok(Err(format!("{} bytes for shape {shape:?}", source.len_bytes())));
    }
    let mut buffer = Buffer::zeroed(source.len_bytes());
    source.copy_to_slice(data.py(), buffer.as_mut_slice())?;
    Ok(Ok(Tensor::dense(dtype, shape, buffer)))
}
