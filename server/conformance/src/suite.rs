//! The cases: those that are built into the program, or a folder of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use zql_spec::conformance::{CaseFile, DataSet, Defects, Matrix, complete};

include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// The file of a folder of cases that lists what they cover.
pub(crate) const MATRIX: &str = "MATRIX.md";

/// The file of a folder of cases that lists the reference's defects which they name; absent if they name none.
const LIST: &str = "defects.txt";

/// Data sets and files of cases.
pub(crate) struct Suite {
    /// The data sets.
    pub(crate) data: Vec<Arc<DataSet>>,
    /// The files by name, without their ending.
    pub(crate) files: Vec<(String, CaseFile)>,
    /// The reference's defects that cases may name.
    pub(crate) defects: Defects,
    folder: Option<PathBuf>,
}

impl Suite {
    /// The cases that are built in.
    pub(crate) fn built_in() -> Result<Suite> {
        Self::read(DATA, CASES, DEFECTS)
    }

    /// The cases of a folder: `*.case`, and `data/*.json`.
    pub(crate) fn folder(folder: &Path) -> Result<Suite> {
        let data = texts(&folder.join("data"), "json")?;
        let cases = texts(folder, "case")?;
        let list = folder.join(LIST);
        let defects = if list.exists() { std::fs::read_to_string(&list)? } else { String::new() };
        let mut suite = Self::read(&data, &cases, &defects)?;
        suite.folder = Some(folder.to_owned());
        Ok(suite)
    }

    fn read<T: AsRef<str>>(data: &[(T, T)], cases: &[(T, T)], defects: &str) -> Result<Suite> {
        let defects = Defects::parse(defects).context(LIST)?;
        let mut suite = Suite { data: Vec::new(), files: Vec::new(), defects, folder: None };
        for (name, text) in data {
            suite.data.push(Arc::new(DataSet::parse(name.as_ref(), text.as_ref())?));
        }
        for (name, text) in cases {
            let name = name.as_ref();
            let file = CaseFile::parse(text.as_ref()).with_context(|| format!("{name}.case"))?;
            suite.data(&file.data).with_context(|| format!("{name}.case"))?;
            suite.files.push((name.to_owned(), file));
        }
        if suite.files.is_empty() {
            bail!("there are no cases");
        }
        let files = suite.files.iter().map(|(name, file)| (name.as_str(), file));
        suite.defects.check(files).map_err(anyhow::Error::msg).context(LIST)?;
        Ok(suite)
    }

    /// A data set.
    pub(crate) fn data(&self, name: &str) -> Result<&Arc<DataSet>> {
        self.data.iter().find(|data| *data.name == *name).with_context(|| format!("no data set {name}"))
    }

    /// Fills in what all cases expect, and writes the files that changed and the matrix; gives their names.
    pub(crate) fn rewrite(&mut self) -> Result<Vec<String>> {
        let folder = self.folder.clone().context("only a folder of cases can be rewritten: name it with --cases")?;
        let mut written = Vec::new();
        for (name, file) in &mut self.files {
            let before = std::fs::read_to_string(folder.join(format!("{name}.case")))?;
            let data = self.data.iter().find(|data| *data.name == *file.data).context("no data set")?;
            for case in &mut file.cases {
                let line = case.line;
                complete(case, data).map_err(|what| anyhow::anyhow!("{name}.case, line {line}: {what}"))?;
            }
            let after = file.print();
            if after != before {
                std::fs::write(folder.join(format!("{name}.case")), after)?;
                written.push(format!("{name}.case"));
            }
        }
        let matrix = self.matrix()?.print();
        if std::fs::read_to_string(folder.join(MATRIX)).ok().as_deref() != Some(&matrix) {
            std::fs::write(folder.join(MATRIX), matrix)?;
            written.push(MATRIX.to_owned());
        }
        Ok(written)
    }

    /// What the cases cover.
    pub(crate) fn matrix(&self) -> Result<Matrix> {
        let mut matrix = Matrix::default();
        for (name, file) in &self.files {
            matrix.add(name, file, self.data(&file.data)?).map_err(anyhow::Error::msg)?;
        }
        Ok(matrix)
    }
}

fn texts(folder: &Path, extension: &str) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|other| other == extension) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, std::fs::read_to_string(&path)?));
        }
    }
    texts.sort();
    Ok(texts)
}
