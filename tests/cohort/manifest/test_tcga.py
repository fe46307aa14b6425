"""TCGA barcodes in names and texts."""

from muse_core.cohort.manifest.tcga import patient_barcode, patient_barcodes, slide_ids

UUID = "600C7D8C-F04C-4125-AF14-B1E76DC01A1E"


def test_the_patient_of_a_name():
    assert patient_barcode("TCGA-A8-A099-01Z-00-DX1") == "TCGA-A8-A099"
    assert patient_barcode("tcga-a8-a099") == "TCGA-A8-A099"
    assert patient_barcode("TCGA-A8-A0999") is None
    assert patient_barcode("C3L-00001-21") is None
    assert patient_barcode("slide of TCGA-A8-A099") is None  # an id must start with it to be that patient's


def test_patients_in_a_text():
    text = "a/TCGA-A8-A099-01Z.svs,TCGA-OL-A66L_1.png XTCGA-A8-A09A TCGA-A8-A09Bx"
    assert patient_barcodes(text) == {"TCGA-A8-A099", "TCGA-OL-A66L"}


def test_slide_ids_of_files():
    one, two = f"TCGA-A8-A099-01Z-00-DX1.{UUID}.svs", f"TCGA-A8-A099-01Z-00-DX1.{UUID[:-1]}F.svs"
    assert slide_ids([one, "CMU-1.svs", f"scan.{UUID}.svs"]) == ["TCGA-A8-A099-01Z-00-DX1", "CMU-1", f"scan.{UUID}"]
    assert slide_ids([one, two]) == [one.removesuffix(".svs"), two.removesuffix(".svs")]
    assert (
        slide_ids([one, one]) == ["TCGA-A8-A099-01Z-00-DX1"] * 2
    )  # one file twice stays one id, to be told as doubled
