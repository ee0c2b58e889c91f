"""The end of every GGUF file that is written from tensors in memory."""

import gguf


def finish_gguf(writer: gguf.GGUFWriter) -> None:
    """Write the header, the fields and the tensors that were added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
