from __future__ import annotations

import pytest

from domains.eeg.channels import ELECTRODES, canonical, choose, is_electrode, kind_of, shown
from hub.errors import InvalidInput

NAMES = {
    "EEG FP1-REF": "Fp1",
    "EEG FP1-LE": "Fp1",
    "EEG T3-AR": "T7",
    "Fc5.": "FC5",
    "C3..": "C3",
    "cz": "Cz",
    "RAW_TP9": "TP9",
    "EEG.AF3": "AF3",
    " O2 ": "O2",
    "T4": "T8",
    "T5": "P7",
    "T6": "P8",
    "afp10h": "AFp10h",
    "CCP1H": "CCP1h",
    "FP1-F7": "Fp1-F7",
    "T8-P8": "T8-P8",
    "EEG Fpz-Cz": "Fpz-Cz",
    "T3-T5": "T7-P7",
    "C3-A2": "C3-A2",
    "EEG C4-M1": "C4-M1",
    "Right AUX": "Right AUX",
    "EXG Channel 0": "EXG Channel 0",
    "EEG 12": "EEG 12",
    "P11": "P11",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_the_wild(name: str) -> None:
    assert canonical(name) == NAMES[name]
    assert canonical(canonical(name)) == canonical(name)


def test_every_name_of_mnes_ten_five_montage_is_known() -> None:
    import mne

    built_in = mne.channels.get_builtin_montages()
    montage = next(name for name in ("colin27_1005", "standard_1005") if name in built_in)
    theirs = set(mne.channels.make_standard_montage(montage).ch_names) - {"T3", "T4", "T5", "T6"}
    assert theirs <= set(ELECTRODES.values())
    assert {canonical(name.upper()) for name in theirs} == theirs


def test_what_is_no_eeg_is_known_by_its_name() -> None:
    kinds = {
        "eog": ["EOG left", "HEOG", "VEOG", "LOC", "EOG(L)"],
        "emg": ["EMG chin", "CHIN EMG", "L_EMG"],
        "ecg": ["ECG", "EKG1", "EEG EKG1-REF", "POL ECG"],
        "misc": [
            *("Status", "STI 014", "STI014", "Trigger", "SpO2", "SaO2", "Resp chest", "PHOTIC-REF", "EEG IBI", "DC3"),
            *(
                "Accel Channel 0",
                "Gyro_X",
                "Battery",
                "COUNTER",
                "Other",
                "Analog Channel 2",
                "Temp rectal",
            ),
        ],
        "eeg": ["Fp1", "CH3", "A1", "M2", "Right AUX", "POz", "T7-P7", "EEG 14", "I1", "PO8", "E17"],
    }
    wrong = {name: kind_of(name) for kind, names in kinds.items() for name in names if kind_of(name) != kind}
    assert not wrong


def test_choosing_channels() -> None:
    names = ["Fp1", "ECG", "Temp", "X"]
    assert choose(names, [True, True, False, True], False)[0] == [0, 3]
    assert choose(names, [True, True, False, True], True)[0] == [0, 1, 3]
    with pytest.raises(InvalidInput, match=r"none of the 2 channels is EEG \(1 ECG, 1 other\)"):
        choose(["ECG", "Cz"], [True, False], False)


def test_only_electrodes_are_named_in_messages() -> None:
    assert shown(["Fp1-F7", "Jane Doe"], 0) == "Fp1-F7" and shown(["Fp1-F7", "Jane Doe"], 1) == "channel 2"
    assert not is_electrode("Jane-Doe") and not is_electrode("Fp1-Doe") and not is_electrode("")
