"""What was written can be read, once per step, whatever killed the run before."""

import json
import math

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from vistok.training.writers import (
    ConsoleWriter,
    JsonlWriter,
    MetricWriter,
    MultiWriter,
    TensorBoardWriter,
    create_writer,
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(folder):
    """Events of all files of a TensorBoard folder, read by the record format: length, check, payload, check."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], 'little')
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_jsonl_holds_one_readable_line_per_call(tmp_path):
    writer = JsonlWriter(tmp_path / 'run' / 'metrics.jsonl')
    writer.write_scalars(1, {'loss': np.float32(0.5), 'loss/pixel': np.array(2.0)})
    writer.write_scalars(2, {'loss': 0.25})
    expected = [{'step': 1, 'loss': 0.5, 'loss/pixel': 2.0}, {'step': 2, 'loss': 0.25}]
    assert lines(tmp_path / 'run' / 'metrics.jsonl') == expected  # before any flush
    writer.close()


def test_jsonl_stays_valid_json_when_a_loss_diverges(tmp_path):
    writer = JsonlWriter(tmp_path / 'metrics.jsonl')
    writer.write_scalars(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf})
    writer.close()
    line = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=pytest.fail)
    assert math.isnan(float(line['a']))
    assert float(line['b']) == math.inf
    assert float(line['c']) == -math.inf


def test_resuming_drops_the_steps_that_will_be_written_again(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    first = JsonlWriter(path)
    for step in (1, 2, 3, 4):
        first.write_scalars(step, {'loss': float(step)})
    first.close()
    with path.open('a') as file:
        file.write('{"step": 2, "lo')  # killed in the middle of a line
    second = JsonlWriter(path, resume_step=2)
    for step in (3, 4, 5):
        second.write_scalars(step, {'loss': float(10 * step)})
    second.close()
    assert [(line['step'], line['loss']) for line in lines(path)] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_a_new_run_starts_a_new_file(tmp_path):
    for value in (1.0, 2.0):
        writer = JsonlWriter(tmp_path / 'metrics.jsonl')
        writer.write_scalars(1, {'loss': value})
        writer.close()
    assert lines(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': 2.0}]


def test_tensorboard_files_hold_scalars_images_texts_and_settings(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(7, {'loss/pixel': 0.5})
    writer.write_images(7, {'one': np.zeros((1, 4, 5, 3), np.uint8), 'two': np.zeros((2, 4, 5, 3), np.uint8)})
    writer.write_texts(7, {'note': 'hello'})
    writer.write_hparams({'model.width': 128})
    writer.close()
    values = {value.tag: (event.step, value) for event in events(tmp_path) for value in event.summary.value}
    assert values['loss/pixel'][0] == 7
    assert values['loss/pixel'][1].simple_value == 0.5
    assert {'one', 'two/0', 'two/1'} <= values.keys()
    assert (values['one'][1].image.height, values['one'][1].image.width) == (4, 5)
    assert any(b'hello' in value.tensor.string_val[0] for tag, (_, value) in values.items() if tag.startswith('note'))
    assert any(b'| model.width | 128 |' in v.tensor.string_val[0] for t, (_, v) in values.items() if 'hparams' in t)


def test_tensorboard_is_told_to_forget_the_steps_after_the_checkpoint(tmp_path):
    TensorBoardWriter(tmp_path, resume_step=20).close()
    starts = [event.step for event in events(tmp_path) if event.session_log.status == event.session_log.START]
    assert starts == [21]


def test_console_line_names_each_group_once(capsys):
    writer = ConsoleWriter()
    writer.write_scalars(
        100, {'loss/pixel': 0.123456, 'lr': 1e-4, 'usage/vis': 0.5, 'loss/commitment/vis': 2.0, 'usage/sem': 0.25}
    )
    assert (
        capsys.readouterr().out
        == 'step 100 | lr 0.0001 | loss: pixel 0.1235, commitment/vis 2 | usage: vis 0.5, sem 0.25\n'
    )


def test_multi_writer_passes_every_kind_to_every_writer():
    kinds = ['write_scalars', 'write_images', 'write_texts', 'write_hparams', 'flush', 'close']

    class Recorder(MetricWriter):
        def __init__(self):
            self.calls = []

    for kind in kinds:
        setattr(Recorder, kind, lambda self, *_, kind=kind: self.calls.append(kind))
    recorders = [Recorder(), Recorder()]
    multi = MultiWriter(recorders)
    multi.write_scalars(1, {})
    multi.write_images(1, {})
    multi.write_texts(1, {})
    multi.write_hparams({})
    multi.flush()
    multi.close()
    assert [recorder.calls for recorder in recorders] == [kinds, kinds]


def test_only_the_primary_process_touches_the_folder(tmp_path, capsys):
    writer = create_writer(tmp_path / 'run', primary=False)
    writer.write_scalars(1, {'loss': 1.0})
    writer.close()
    assert not (tmp_path / 'run').exists()
    writer = create_writer(tmp_path / 'run', primary=True)
    writer.write_scalars(1, {'loss': 1.0})
    writer.close()
    assert lines(tmp_path / 'run' / 'metrics.jsonl') == [{'step': 1, 'loss': 1.0}]
    assert (tmp_path / 'run' / 'tensorboard').is_dir()
    assert capsys.readouterr().out == 'step 1 | loss 1\n'
