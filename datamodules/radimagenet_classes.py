"""RadImageNet's 165 classes, pinned: their names, what the names say, and how folders and labels lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

#: The pathologies below each modality and anatomy as the set spells them: underscores at the end and ``++`` belong.
PATHOLOGIES = {
    ("CT", "abd"): "abnormal_entire_organ adrenal_pathology arterial_pathology ascites bil_dil bladder_pathology "
    "bowel_abnormality bowel_inflammation bowel_mass degenerative_changes dilated_urinary_tract fat_containing_tumor "
    "gallbladder_pathology gallstone intraperitoneal_mass liver_lesion normal osseous_neoplasm ovarian_pathology "
    "pancreatic_lesion post_op prostate_lesion renal_lesion soft_tissue_collection soft_tissue_mass splenic_lesion "
    "urolithiasis uterine_pathology",
    ("CT", "lung"): "Airspace_opacity Bronchiectasis Nodule Parenchyma_destruction interstitial_lung_disease normal",
    ("MR", "af"): "Plantar_plate_tear achilles_pathology_ atfl_pathology bone_inflammation cfl_pathology "
    "chondral_abnormality coalition deltoid_pathology extensor_pathology_ fat_containing_tumor flexor_pathology_ "
    "hematoma intra lisfranc_pathology normal osseous_disruption osseous_neoplasm peroneal_pathology "
    "plantar_fascia_pathology post_op soft_tissue_edema soft_tissue_fluid soft_tissue_mass spring_ligament_injury "
    "syndesmosis_pathology",
    ("MR", "abd"): "adrenal_pathology arterial_pathology ascites bil_dil bladder_pathology bowel_abnormality "
    "bowel_inflammation bowel_mass degenerative_changes dilated_urinary_tract enlarged_organ gallbladder_pathology "
    "intraperitoneal_mass liver_disease_ liver_lesion marrow_abn normal osseous_neoplasm ovarian_pathology "
    "pancreatic_lesion prostate_lesion renal_lesion soft_tissue_collection soft_tissue_mass splenic_lesion "
    "uterine_pathology",
    ("MR", "brain"): "acute_infarct arteriovenous_anomaly chronic_infarct edema extra focal_flair_hyper intra normal "
    "pituatary_lesion white_matter_changes",
    ("MR", "hip"): "abductor_pathology_ capsular_pathology chondral_pathology hamstring_pathology hematoma "
    "labral_pathology marrow_inflammation normal osseous_disruption osseous_lesion post_op soft_tissue_edema "
    "soft_tissue_fluid soft_tissue_mass",
    ("MR", "knee"): "acl_pathology bone_inflammation chondral_abnormality fcl_pathology fracture hematoma intra "
    "mcl_pathology meniscal_abnormality muscle_strain normal patella_pathology pcl_pathology post_operative_acl "
    "quad_pathology soft_tissue_edema soft_tissue_fluid_collection soft_tissue_mass",
    ("MR", "shoulder"): "acj_oa biceps_pathology ca++_tendinosis ghj_oa infraspinatus_pathology labral_pathology "
    "marrow_inflammation normal osseous_lesion post_op soft_tissue_edema soft_tissue_fluid subscapularis_pathology "
    "supraspinatus_pathology",
    ("MR", "spine"): "cord_pathology_ cystic_lesions disc_pathology dural_epidural_abn facet_arthropathy "
    "foraminal_pathlogy normal osseous_abn scoliosis",
}
#: Ultrasound has organs for classes and no pathologies below them.
ORGANS = {
    "usabd": "aorta bladder cbd fibroid gb ivc kidney liver ovary pancreas portal_vein spleen uterus",
    "usthyroid": "thyroid thyroid_nodule",
}
MODALITIES = ("CT", "MR", "US")
#: What stands for a class that is none of RadImageNet's.
OTHER = "other"


class ClassParts(NamedTuple):
    """What a class's name says.

    Args:
        modality: ``CT``, ``MR`` or ``US``.
        anatomy: one of the published eleven, so that the abdomen is another one in CT (``abd``), MR (``mriabd``) and
            ultrasound (``usabd``).
        pathology: or ``normal``; ultrasound's classes are organs, and it is the organ.
    """

    modality: str
    anatomy: str
    pathology: str


def _named_parts() -> dict[str, ClassParts]:
    parts = {
        f"{modality}__{anatomy}__{pathology}": ClassParts(
            modality, "mriabd" if (modality, anatomy) == ("MR", "abd") else anatomy, pathology
        )
        for (modality, anatomy), pathologies in PATHOLOGIES.items()
        for pathology in pathologies.split()
    }
    parts |= {
        f"US__{organ}": ClassParts("US", group, organ) for group, organs in ORGANS.items() for organ in organs.split()
    }
    return dict(sorted(parts.items()))


#: Each class's parts, in the order that ImageFolder gives the refined set's folders: by bytes, capitals first.
CLASS_PARTS = _named_parts()
CLASS_NAMES = tuple(CLASS_PARTS)


def class_of_path(filename: str) -> str | None:
    """The class that the folders of an image name.

    Args:
        filename: with forward slashes; the folder of the file is ``CT/abd/normal``, ``US/gb``, ``CT__abd__normal`` or
            ``US__gb``, below anything. MR's abdomen may be ``abd`` or ``mriabd``.

    Returns:
        One of `CLASS_NAMES`, or ``None`` if they name none.
    """
    folders = filename.split("/")[:-1]
    return next((name for depth in (1, 2, 3) if (name := _canonical("__".join(folders[-depth:]))) is not None), None)


def classes_of_label(label: str) -> list[str]:
    """The classes that a label can mean, the likeliest first.

    Args:
        label: ``<anatomy>-<pathology>`` as in the official CSVs (``abd-normal``, ``mriabd-normal``, ``usabd-gb``), with
            the modality before it (``ct-abd-normal``), or a canonical name.

    Returns:
        Some of `CLASS_NAMES`; ``abd-normal`` can be CT's or MR's, and is CT's where MR's is ``mriabd``.
    """
    name = _canonical(label)
    if name is not None:
        return [name]
    head, _, pathology = label.rpartition("-")
    modality, _, anatomy = head.rpartition("-")
    names = [
        name
        for name, parts in CLASS_PARTS.items()
        if parts.pathology == pathology
        and anatomy in (parts.anatomy, parts.anatomy.removeprefix("mri"))
        and modality.upper() in ("", parts.modality)
    ]
    return names if head else []


def canonical_class(filename: str, label: str) -> str | None:
    """The class of an image that has both a place and a label.

    The label says it, since it is what somebody stated and can correct without moving files; the folders say which
    class it means where it can mean several, or calls the anatomy by a name that is not known here. So a label that
    contradicts its folder stays to be seen, and nothing but a full name turns a label into a class.

    Args:
        filename: see `class_of_path`.
        label: see `classes_of_label`.

    Returns:
        One of `CLASS_NAMES`, or ``None`` if the label names none.
    """
    named = classes_of_label(label)
    of_path = class_of_path(filename)
    if of_path is not None and (of_path in named or (not named and _ends_with_pathology(label, of_path))):
        return of_path
    return next(iter(named), None)


def class_columns(names: Sequence[str]) -> dict[str, list[str]]:
    """The modality, the anatomy and the pathology of each class; see `ClassParts`.

    Args:
        names: classes; what is none of RadImageNet's is ``other``.

    Returns:
        ``{"modality": [...], "anatomy": [...], "pathology": [...]}`` with an entry a class, without a way that puts
        all into one group.
    """
    other = ClassParts(OTHER, OTHER, OTHER)
    columns = zip(ClassParts._fields, zip(*(CLASS_PARTS.get(name, other) for name in names), strict=True), strict=False)
    return {way: list(of_class) for way, of_class in columns if len(set(of_class)) > 1}


def choose_classes(found: Sequence[str], class_list: Literal["auto", "pinned", "found"] = "auto") -> list[str]:
    """The classes of a problem, in the order of their labels.

    Args:
        found: the classes that have images.
        class_list: ``pinned`` for the 165 whether they have images or not, so that labels mean the same in every
            subset; ``found`` for those with images; ``auto`` for the 165 if all that was found is among them.

    Raises:
        ValueError: if the pinned list is asked for and lacks some.
    """
    unknown = sorted(set(found) - CLASS_PARTS.keys())
    if class_list == "pinned" and unknown:
        raise ValueError(
            f"class_list: pinned means RadImageNet's {len(CLASS_NAMES)} classes, and {len(unknown)} of those found are "
            f"not among them: {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}; "
            "set class_list: found, or take these images out"
        )
    if class_list == "found" or unknown or not found:
        return sorted(set(found))
    return list(CLASS_NAMES)


def _canonical(name: str) -> str | None:
    name = name.replace("MR__mriabd__", "MR__abd__", 1) if name.startswith("MR__mriabd__") else name
    return name if name in CLASS_PARTS else None


def _ends_with_pathology(label: str, name: str) -> bool:
    head, _, pathology = label.rpartition("-")
    return bool(head) and pathology == CLASS_PARTS[name].pathology
