"""The CPU LoRA plugin: its own self-test, what it refuses, and what it says."""

import pytest
import torch
import vllm
from vllm.lora.punica_wrapper import punica_cpu
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU as StockWrapper

from reheatd.engine import cpu_lora


@pytest.fixture(autouse=True)
def stock_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punica_cpu, "PunicaWrapperCPU", StockWrapper)


def test_the_self_test_passes_the_plugin_and_catches_the_stock_kernels() -> None:
    assert cpu_lora.self_test(cpu_lora.grouped_wrapper(StockWrapper)) < 1e-6
    # Stock kernels give rows without an adapter the last slot's: the fault the plugin is there for.
    assert cpu_lora.self_test(StockWrapper) > 0.1


def test_an_adapter_of_smaller_width_than_its_layer_leaves_the_padding_alone() -> None:
    wrapper = cpu_lora.grouped_wrapper(StockWrapper)(max_num_batched_tokens=3, max_batches=3, device="cpu")
    wrapper.group_rows(torch.tensor([0, -1, 0]))
    y_TO = torch.zeros(3, 5)
    wrapper.add_lora_linear(y_TO, torch.ones(3, 2), (torch.ones(1, 1, 1, 2),), (torch.ones(1, 1, 3, 1),), 1.0, (5,))
    assert y_TO.tolist() == [[2, 2, 2, 0, 0], [0] * 5, [2, 2, 2, 0, 0]]


def test_an_adapter_that_is_written_into_a_slot_is_the_one_that_answers_from_then_on() -> None:
    wrapper = cpu_lora.grouped_wrapper(StockWrapper)(max_num_batched_tokens=2, max_batches=2, device="cpu")
    a, b = torch.ones(6, 1, 1, 2), torch.ones(6, 1, 3, 1)

    def update_of(slots: list[int]) -> list[list[float]]:
        wrapper.group_rows(torch.tensor(slots))
        y_TO = torch.zeros(len(slots), 3)
        wrapper.add_lora_linear(y_TO, torch.ones(len(slots), 2), (a,), (b,), 1.0, (3,))
        return y_TO.tolist()

    assert update_of([0, 1]) == [[2] * 3, [2] * 3]
    b[1].fill_(3)
    assert update_of([0, 1]) == [[2] * 3, [6] * 3]
    a[0].fill_(0)
    assert update_of([1, 0]) == [[6] * 3, [0] * 3]
    for other in range(2, 6):  # more sets of adapters than are kept
        assert update_of([other, 1]) == [[2] * 3, [6] * 3]
    assert update_of([0, 1]) == [[0] * 3, [6] * 3]


@pytest.mark.skipif("not vllm.platforms.current_platform.is_cpu()", reason="the plugin acts on the CPU only")
class TestOnTheCpu:
    def test_registering_replaces_the_kernels_once(self) -> None:
        cpu_lora.register()
        replaced = punica_cpu.PunicaWrapperCPU
        assert replaced is not StockWrapper
        cpu_lora.register()
        assert punica_cpu.PunicaWrapperCPU is replaced

    def test_another_vllm_version_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm, "__version__", "0.33.1+cpu")
        with pytest.raises(RuntimeError, match=r"checked against vLLM 0\.32\.0, this is 0\.33\.1"):
            cpu_lora.register()
        assert punica_cpu.PunicaWrapperCPU is StockWrapper

    def test_a_failed_self_test_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu_lora, "grouped_wrapper", lambda stock: stock)
        with pytest.raises(RuntimeError, match="failed their self-test: off by"):
            cpu_lora.register()
        assert punica_cpu.PunicaWrapperCPU is StockWrapper


def test_an_engine_that_would_not_load_the_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    cpu_lora.require()
    monkeypatch.setenv("VLLM_PLUGINS", "reheatd_cpu_lora,another")
    cpu_lora.require()
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(RuntimeError, match="VLLM_PLUGINS=another leaves out reheatd_cpu_lora"):
        cpu_lora.require()
    monkeypatch.setattr(cpu_lora, "PLUGIN_NAME", "not_installed")
    with pytest.raises(RuntimeError, match="not_installed is not installed"):
        cpu_lora.require()
