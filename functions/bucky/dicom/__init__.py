"""Data sets and files (PS3.5, PS3.10), read as they came: nothing here changes a byte.

uids.py                   what a UID is
value_representations.py  which VRs there are, and which have long lengths
source.py                 where the bytes come from
elements.py               a walk over a data set's elements up to the pixels; element.py is what it finds
identity.py               the UIDs that name an instance, while it arrives; identity_walk.py finds them
part10.py                 files: the preamble and file meta information around a data set
foreign_file.py           files that others wrote
deflated.py               inflating (PS3.5 §A.5)

numbers.py                numbers as VRs write them, compared exactly
padding.py                one normaliser of padding, by VR (PS3.5 §6.2)
coded_sets.py             the code extensions of ISO 2022; character_sets.py decodes text (PS3.3 §C.12.1.1.2)
element_vr.py             which VR an element has, private ones and those of unknown VR too
plain_values.py           an element's values without pydicom, where that is quicker
json_model.py             the DICOM JSON model (PS3.18 Annex F)
header.py                 a data set up to its pixels
patients.py               whether two patients are one

structure.py              the whole tree of a data set
pixel_length.py           how many bytes of pixels there are to be
whole.py                  whether a data set is whole
"""
