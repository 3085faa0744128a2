"""Integer graph -> a TFLite file of int8 integers, written directly: no converter chooses scales.

``flatbuffer`` lays out the bytes, ``writer`` finds a place and a layout for every tensor,
``layers`` and ``operators`` say what each node is, ``tflite_export`` makes the file.
"""
