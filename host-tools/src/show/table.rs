//! Tables on a terminal.

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

/// A table with these titles and rows; the columns in `numbers` are aligned to the right.
pub fn table<const N: usize>(
    titles: [&str; N],
    numbers: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(titles);
    table.add_rows(rows);
    for column in table.column_iter_mut().filter(|column| numbers.contains(&column.index)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
